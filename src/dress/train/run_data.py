"""The data of a run: every dataset opened once, whichever stages read it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dress import config
from dress.base.files import write_lines
from dress.config.stages import SPLITS
from dress.data.cache import is_remote
from dress.data.shards import Shards
from dress.data.stream import Stream, open_stream
from dress.train.datamodule import rejected

REJECTS = "rejects.jsonl"


@dataclass(frozen=True)
class Output:
    """What a stage makes, or a folder outside of the run holds; the model before any stage has no folder.

    Attributes:
        folder: with `model.safetensors`, `shards/` or outcomes.
        fingerprint: of all that it is made from; of its content where it is not made by this run.
        own: whether this run makes it.
    """

    folder: Path | None
    fingerprint: str
    own: bool = True


@dataclass(frozen=True)
class Records:
    """Records that a stage reads, one dataset or several; opened when they are asked for.

    Attributes:
        data: opens them.
        source: where they are.
        fingerprint: equal for equal records.
    """

    data: RunData
    source: config.Source | Path
    fingerprint: str

    def stream(self, seed: int = 0) -> Stream:
        """The records in the order of a seed.

        Raises:
            FileNotFoundError: they are not there.
            ValueError: shards that are damaged; names them.
        """
        return self.data.stream(self.source, seed)

    @property
    def count(self) -> int:
        """How many records there are, in all datasets."""
        return sum(len(part.shards) for part in self.stream().parts)

    @property
    def shards(self) -> Shards:
        """The records as one dataset."""
        (part,) = self.stream().parts
        return part.shards


class RunData:
    """Splits of `data`, relative to `root`; what was opened is kept open."""

    def __init__(self, data: config.Data, root: str | Path) -> None:
        self.data, self.root = data, root
        self._opened: dict[str, Shards] = {}

    def stream(self, source: config.Source | Path, seed: int = 0) -> Stream:
        """Datasets in the order of a seed."""
        return open_stream(source, self.root, self.data, seed, self._opened)

    def records(self, names: Mapping[str, float], outputs: Mapping[str, Output]) -> Records:
        """What a stage reads.

        Args:
            names: splits, and collect stages, with their weights.
            outputs: what the stages before make, by name.

        Raises:
            FileNotFoundError, ValueError: a split that is missing or damaged; names it.
        """
        parts = [self._part(name, outputs) for name in names]
        if len(parts) == 1:
            return parts[0]
        mixture: dict[str, config.Mixed] = {}
        for (name, weight), part in zip(names.items(), parts, strict=True):
            several = part.source if isinstance(part.source, dict) else {"": config.Mixed(path=str(part.source))}
            total = sum(one.weight for one in several.values())
            for inner, one in several.items():
                share = weight * one.weight / total
                mixture[f"{name}/{inner}".rstrip("/")] = config.Mixed(path=one.path, weight=share)
        text = "\n".join(f"{name} {names[name]!r} {part.fingerprint}" for name, part in zip(names, parts, strict=True))
        return Records(self, mixture, hashlib.sha256(text.encode()).hexdigest()[:16])

    def _part(self, name: str, outputs: Mapping[str, Output]) -> Records:
        if name in SPLITS:
            source = getattr(self.data, name)
            return Records(self, source, self.stream(source).fingerprint)
        output = outputs[name]
        assert output.folder is not None, "a collect stage has one"
        return Records(self, (output.folder / "shards").absolute(), output.fingerprint)

    @property
    def validation(self) -> Records | None:
        """Records that data.validation names, whose loss is measured while training."""
        source = self.data.validation
        return None if source in (None, "auto") else Records(self, str(source), self.stream(str(source)).fingerprint)

    @property
    def held_out(self) -> Records | None:
        """Records whose loss is measured where data.validation leaves it open: the eval split, if it lies here."""
        if self.data.validation != "auto" or self.data.stored or is_remote(f"{self.root}{self.data.eval}"):
            return None
        try:
            return Records(self, self.data.eval, self.stream(self.data.eval).fingerprint)
        except (FileNotFoundError, ValueError):  # a run that needs it says so
            return None


def name_damage(folder: Path, shards: Shards) -> None:
    """Write what a collect or eval stage passed over into the stage's reject file."""
    if lines := [*shards.damage, *shards.skipped]:
        write_lines(folder / REJECTS, ({"where": line, "reason": line} for line in lines))


def set_aside(folder: Path) -> str | None:
    """How many records and shards a stage set aside and why; None if none."""
    reasons: Any = rejected(folder / REJECTS)
    if not reasons:
        return None
    few = "; ".join(f"{number} x {reason[:80]}" for reason, number in reasons.most_common(3))
    return f"stage {folder.name}: {reasons.total()} set aside, see {folder / REJECTS}: {few}"
