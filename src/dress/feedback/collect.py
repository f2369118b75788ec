"""Collection: the shards of records with the dialogues that were held over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dress import config
from dress.base.parts import PartNumber
from dress.base.progress import Advance, ignore
from dress.base.seeding import seed_for
from dress.data.index_file import INDEX
from dress.data.shards import Sample, Shards, write_shards
from dress.feedback.failures import set_failures_aside
from dress.record import Dialogue
from dress.rollout.conversation import Opening, Rollout, converse

ShareOut = Callable[[Callable[[int], None], int], None]
"""Who does which share of a work: this process alone (`in_turn`), or all ranks of a run."""


def in_turn(work: Callable[[int], None], shares: int) -> None:
    """Do every share of a work in this process."""
    for number in range(shares):
        work(number)


@dataclass(frozen=True)
class Collection:
    """What is collected.

    Args:
        prompts: records whose dialogues' first questions are asked.
        stage: how many records, turns and samples per question.
        folder: of the shards that are written.
        part: which of the shards are written; None is all.
    """

    prompts: Shards
    stage: config.CollectSettings
    folder: Path
    part: PartNumber | None = None

    @property
    def slices(self) -> list[range]:
        """Which records make which shard."""
        return slices(self.prompts, self.stage)

    @property
    def shards(self) -> dict[int, range]:
        """The shards to be written: number to records."""
        parts = self.slices
        return {number: parts[number] for number in (self.part or PartNumber(0, 1)).span(len(parts))}


def slices(prompts: Shards, stage: config.CollectSettings) -> list[range]:
    """Which records make which shard."""
    asked = stage.asked(len(prompts))
    return [asked[first : first + stage.per_shard] for first in range(0, len(asked), stage.per_shard)]


def collect_slice(
    rollout: Rollout, samples: Sequence[Sample], stage: config.CollectSettings, answered: Advance = ignore
) -> list[Sample]:
    """The records of one shard with the dialogues that were held over them.

    Args:
        rollout: who answers and who judges.
        samples: the records, whose dialogues' first questions are asked.
        stage: turns, and samples per question.
        answered: called with the number of finished answers.
    """
    openings = openings_of(samples, stage, rollout.sampling.condition)
    dialogues: dict[int, list[Dialogue]] = {}
    for opening, dialogue in zip(openings, converse(rollout, samples, openings, answered=answered), strict=True):
        dialogues.setdefault(opening.sample, []).append(dialogue)
    return [
        (record.model_copy(update={"dialogues": dialogues[position]}), image)
        for position, (record, image) in enumerate(samples)
        if position in dialogues
    ]


def openings_of(samples: Sequence[Sample], stage: config.CollectSettings, condition: str) -> list[Opening]:
    """The dialogues that are held over the records of one shard.

    Args:
        samples: the records, whose dialogues' first questions are asked.
        stage: turns, and samples per question.
        condition: text that every answer stands after.
    """
    return [
        Opening(position, dialogue, [condition] * stage.turns)
        for position, (record, _) in enumerate(samples)
        for dialogue in record.dialogues
        for _ in range(stage.samples)
    ]


def collect(
    rollout: Rollout, collection: Collection, progress: Advance = ignore, anew: bool = False,
    share_out: ShareOut = in_turn,
) -> list[dict[str, Any]]:  # fmt: skip
    """Write `folder/shard-*.tar`: the prompts' records with the responder's answers and feedback on them.

    Goes on where an earlier call stopped: each shard is a fixed slice of the prompts with a seed of
    its own, so a shard that is there is the shard that would be written.

    Args:
        rollout: who answers and who judges.
        collection: whose questions, how many, and the folder.
        progress: called with the number of finished records, and between them with that of answers as a line.
        anew: write shards that are there once more, each in the place of the old one.
        share_out: does the shards; each is written whole by one process.

    Returns:
        What failed in the shards that this process wrote: a row for each answer or feedback that could not be had.
    """
    prompts, stage, folder = collection.prompts, collection.stage, collection.folder
    failures: list[dict[str, Any]] = []
    if anew:
        (folder / INDEX).unlink(missing_ok=True)  # it tells of the old shards
    shards, answers = list(collection.shards.items()), 0

    def answered(n: int = 1, info: str = "") -> None:
        nonlocal answers
        answers += n
        progress(0, f"{answers:,} answers")

    def write(place: int) -> None:
        number, indices = shards[place]
        shard = folder / f"shard-{number:06d}.tar"
        if anew or not shard.exists():
            samples = list(prompts.readable(indices))
            part = replace(rollout, seed=seed_for(rollout.seed, number))
            usable, rows = set_failures_aside(collect_slice(part, samples, stage, answered))
            failures.extend(rows)
            features = stored_features(prompts, indices)
            if not write_shards(folder, usable, stage.per_shard, start=number, features=features):
                shard.unlink(missing_ok=True)
        progress(len(indices), "")

    share_out(write, len(shards))
    return failures


def stored_features(prompts: Shards, indices: Iterable[int]) -> dict[str, bytes]:
    """The vision features of the prompts that have some, by key: they go with the answers, as the images do."""
    return {key: data for key, data in map(prompts.features_file, indices) if data is not None}
