"""The data of a run: every split opened once, and all of them before the first stage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dress import config
from dress.data.datamodule import rejected
from dress.data.remote import RemoteShards
from dress.data.shards import Shards
from dress.data.stream import Stream, open_stream
from dress.data.supervision import Supervision, TooLong
from dress.dialogue.encode import Encoder
from dress.files import write_lines
from dress.progress import CurriculumProgress

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

    def check_supervision(
        self, settings: config.Config, stages: Iterable[str], encoder: Encoder, progress: CurriculumProgress
    ) -> Iterator[str]:
        """Look through what stages will train on: is there something to learn, and does it fit into `data.max_tokens`?

        Only rows whose text could be too long are tokenised. Remote shards are not fetched for it.

        Args:
            settings: of the run.
            stages: those to come; what a collect stage will write is not there yet.
            encoder: of the model.
            progress: shows the reading.

        Yields:
            What a person should know of rows that are set aside.

        Raises:
            ValueError: names stage, data and rows.
        """
        for name in stages:
            stage = settings.curriculum.stages[name]
            if not isinstance(stage, config.TrainStage) or (source := getattr(self.data, stage.data)) is None:
                continue
            stream, look = self.stream(source), Supervision(name, stage, settings, encoder)
            look.check_any(stream)
            rows: list[TooLong] = []
            for part in stream.parts:
                doubtful = sum(look.could_be_longer(part.shards.text_size(i)) for i in range(len(part.shards)))
                if doubtful and isinstance(part.shards, RemoteShards):
                    yield (
                        f"stage {name}: {doubtful:,} rows of {part.shards.folder} could be longer than "
                        f"data.max_tokens; known when they are fetched"
                    )
                elif doubtful:
                    progress.start(f"lengths of data.{stage.data}", len(part.shards))
                    rows += look.too_long(part.shards, progress.advance)
                    progress.end()
            if line := look.refuse(rows):
                yield line

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
