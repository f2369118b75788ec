"""The data of a run: every split opened once, and all of them before the first stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dress import config
from dress.base.files import write_lines
from dress.data.shards import Shards
from dress.data.stream import Stream, open_stream
from dress.train.datamodule import rejected

REJECTS = "rejects.jsonl"


class RunData:
    """Splits of `data`, relative to `root`; what was opened is kept open."""

    def __init__(self, data: config.Data, root: str | Path) -> None:
        self.data, self.root = data, root
        self._opened: dict[str, Shards] = {}

    def shards(self, name: str) -> Shards:
        """A split that is one dataset."""
        return self.stream(getattr(self.data, name)).parts[0].shards

    def stream(self, source: config.Source | Path, seed: int = 0) -> Stream:
        """Datasets in the order of a seed."""
        return open_stream(source, self.root, self.data, seed, self._opened)

    def check(self, curriculum: config.Curriculum, encoder: Mapping[str, str] | None) -> None:
        """Open all that the stages will read, so that what is missing or damaged is named before the first of them.

        Args:
            curriculum: the stages.
            encoder: with `data.features` what the stored features must be of (`VisionEncoder.facts`).

        Raises:
            ValueError: names the shard.
        """
        for stage in (curriculum.stages[name] for name in curriculum.order):
            match stage:
                case config.TrainStage():
                    sources = [getattr(self.data, stage.data), self.data.validation]
                case config.CollectStage():
                    sources = [self.data.prompts]
                case config.EvalStage():
                    sources = [self.data.eval]
            for part in (part for source in sources if source is not None for part in self.stream(source).parts):
                if encoder is not None and not isinstance(stage, config.EvalStage):
                    part.shards.check_features(encoder)


def name_damage(folder: Path, shards: Shards) -> None:
    """Write what a collect or eval stage passed over into the stage's reject file."""
    if lines := [*shards.damage, *shards.skipped]:
        write_lines(folder / REJECTS, ({"where": line, "reason": line} for line in lines))


def told(folder: Path) -> str | None:
    """How many records and shards a stage set aside and why; None if none."""
    reasons: Any = rejected(folder / REJECTS)
    if not reasons:
        return None
    few = "; ".join(f"{number} x {reason[:80]}" for reason, number in reasons.most_common(3))
    return f"stage {folder.name}: {reasons.total()} set aside, see {folder / REJECTS}: {few}"
