"""What is trained on, step by step: one item is one optimiser step.

A step is a fixed slice of the order of records, so that neither ranks nor workers change what is learned.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from torch.utils.data import Dataset

from dress import config
from dress.data.cache import ChangedShardError
from dress.data.stream import Place, Stream
from dress.dialogue.batch import Batch, Example, collate
from dress.record import Record, RecordError
from dress.train.examples import Examples


class StepDataset(Dataset[Batch]):
    """Item n is what this rank trains on in optimiser step n.

    Args:
        stream: records by position.
        stage: its steps, and records per step.
        examples: made of the records.
        overfit: every item is the first one.
        rank: this process; given, never detected in a worker.
        world: how many processes there are.
    """

    prefix = ""
    """Of the names of its examples."""

    def __init__(
        self,
        stream: Stream,
        stage: config.TrainStage,
        examples: Examples,
        overfit: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.stream, self.stage, self.examples = stream, stage, examples
        self.overfit, self.rank, self.world = overfit, rank, world

    def __len__(self) -> int:
        return self.stage.total_steps

    def __getitem__(self, step: int) -> Batch:
        return self._of_places(self.places(step))

    def places(self, step: int) -> Sequence[Place]:
        """The records of a step, of all ranks."""
        return self.stream.step(0 if self.overfit else step, self.stage.records_per_step)

    def _of_places(self, places: Sequence[Place]) -> Batch:
        """This rank's share of a step."""
        numbers = range(len(places))[self.rank :: self.world]
        return self.collated(self._sample(places[number], self._other(places, number)) for number in numbers)

    def _other(self, places: Sequence[Place], number: int) -> Record | None:
        """The next record of a step that has rated answers, where an objective asks for answers of another one."""
        if not self.examples.objectives.mismatching:
            return None
        own = places[number]
        for place in (*places[number + 1 :], *places[:number]):
            if (place.part, place.sample) == (own.part, own.sample):
                continue
            try:
                record = self.stream.shards(place).record(place.sample)
                if self.examples.mismatching(record):
                    return record
            except (RecordError, ChangedShardError):  # named where it is trained on
                continue
        return None

    def collated(self, samples: Iterable[Example | None]) -> Batch:
        """Samples as forests."""
        return collate((sample for sample in samples if sample), self.examples.data.tokens_per_forest)

    def _sample(self, place: Place, other: Record | None) -> Example | None:
        where, shards, examples = self.stream.where(place), self.stream.shards(place), self.examples
        try:
            record = shards.record(place.sample)
            picture = shards.features(place.sample) if examples.data.stored else shards.image(place.sample)
            example = examples.build(record, picture, where, self.stream.rng(place), other)
            example.name = f"{self.prefix}{place.part}.{place.sample}"
            return example
        except (RecordError, ChangedShardError) as error:
            examples.reject(where, str(error))
            return None


class HeldOut(StepDataset):
    """The first records of a dataset once each, in steps, to measure the loss on; the rest as of `StepDataset`.

    Args:
        most: how many records; None is all.
    """

    prefix = "held-out "

    def __init__(
        self, stream: Stream, stage: config.TrainStage, examples: Examples, most: int | None = None,
        rank: int = 0, world: int = 1,
    ) -> None:  # fmt: skip
        super().__init__(stream, stage, examples, False, rank, world)
        there = len(stream.parts[0].shards)
        self.records = there if most is None else min(there, most)

    def __len__(self) -> int:
        size = self.stage.records_per_step
        if self.stage.objective == "words":  # a short last step would tell fewer images apart
            return max(1, self.records // size)
        return math.ceil(self.records / size)

    def places(self, step: int) -> Sequence[Place]:
        """See `StepDataset.places`."""
        size = self.stage.records_per_step
        last = min((step + 1) * size, self.records)
        return [Place(0, sample, 0) for sample in range(step * size, last)]
