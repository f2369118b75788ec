"""What is asked: of which images, in which category of harm, and which questions may not come again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dress.attacker import Assignment
from dress.base.progress import CurriculumProgress
from dress.base.seeding import rng_for
from dress.config.attacks import AttackCommand
from dress.data.cache import is_remote
from dress.data.shards import Shards
from dress.data.stream import open_split
from dress.inspection.data_set import DataSet
from dress.inspection.texts import questions
from dress.worlds.prepared import open_prompts, prepared

WITHOUT_IMAGE, UNKNOWN, DAMAGED = "no image", "neither caption nor object", "cannot be read"


@dataclass(frozen=True)
class Plan:
    """What is asked, and of what.

    Args:
        images: the records.
        slices: requests of each slice of the records.
        places: key of a record to its place among the images.
        left_out: number of records that nothing is asked about, by reason.
    """

    images: Shards
    slices: list[list[Assignment]]
    places: dict[str, int]
    left_out: dict[str, int]

    @property
    def asked(self) -> list[Assignment]:
        """Everything."""
        return [one for part in self.slices for one in part]


def open_images(settings: AttackCommand, progress: CurriculumProgress) -> Shards:
    """The records that requests are written about.

    Raises:
        FileNotFoundError, ValueError: none are named, or none are there.
    """
    if settings.shards is None and settings.data is None:
        raise ValueError(
            "task=attack: expected images: shards=DIR, data=shapes, or data=shards data.path=DIR (its prompts), "
            "got none"
        )
    return open_prompts(settings.shards, settings.data, progress)


def plan_of(images: Shards, settings: AttackCommand, categories: Sequence[str]) -> Plan:
    """Of the first records those with an image of which something is known, each with categories drawn by its key.

    Raises:
        RecordError: one cannot be read, and `data.on_damage` is `stop`.
        ValueError: there is none.
    """
    plan, number = Plan(images, [], {}, {}), min(settings.records, len(images))
    for first in range(0, number, settings.per_shard):
        part: list[Assignment] = []
        for index in range(first, min(first + settings.per_shard, number)):
            record, _ = next(images.readable([index]), (None, None))
            if record is None:
                plan.left_out[DAMAGED] = plan.left_out.get(DAMAGED, 0) + 1
                continue
            known = record.annotation
            lacking = WITHOUT_IMAGE if record.image is None else "" if known.captions or known.objects else UNKNOWN
            if lacking:
                plan.left_out[lacking] = plan.left_out.get(lacking, 0) + 1
                continue
            plan.places[record.key] = index
            chosen = rng_for("attack", settings.seed, record.key).sample(list(categories), settings.per_image)
            bare = record.model_copy(update={"dialogues": []})
            part += [Assignment(bare, name, place, seed=settings.seed) for place, name in enumerate(chosen)]
        plan.slices.append(part)
    if not plan.places:
        why = ", ".join(f"{reason} ({times})" for reason, times in plan.left_out.items())
        raise ValueError(f"{images.folder}: expected images with captions or objects, got none: {why}")
    return plan


def seen_texts(settings: AttackCommand) -> list[str]:
    """The questions that may not come again.

    Raises:
        FileNotFoundError, ValueError: no such set, or nothing in it that can be read.
    """
    items = (item for path in settings.seen for item in DataSet(path))
    return [text for item in items for dialogue in item.record.dialogues for text in questions(dialogue)]


def evaluation_of_harm(settings: AttackCommand, progress: CurriculumProgress) -> str | None:
    """The folder of the data's evaluation, if that asks for harm and its questions may come again here."""
    data = settings.data
    if data is None or settings.seen:
        return None
    if is_remote(data.path):  # not fetched for that
        return None
    folder = prepared(data, lambda n: progress.start(f"world {data.world}", n), progress.advance)
    try:
        held_out = open_split(data.eval, folder, data)
    except (FileNotFoundError, ValueError):  # nothing there that an evaluation could ask
        return None
    kinds = (
        dialogue.extra.get("request", {}).get("kind", "harmful")
        for record, _ in held_out.readable(range(len(held_out)))
        for dialogue in record.dialogues
        if dialogue.criterion == "harmlessness"
    )
    return held_out.folder if "harmful" in kinds else None
