"""What is trained on, step by step: one item is one optimiser step.

A step is a fixed slice of the order of records, so that neither ranks nor workers change what is learned.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random

from torch import Tensor
from torch.utils.data import Dataset

from dress import config
from dress.data.cache import ChangedShardError
from dress.data.stream import Place, Stream
from dress.dialogue.batch import Batch, Example, collate
from dress.dialogue.encode import DialogueEncoder
from dress.dialogue.tree import build_tree, build_trees
from dress.phases import supervised
from dress.record import Record, RecordError


class StepDataset(Dataset[Batch]):
    """Item n is what this rank trains on in optimiser step n.

    Args:
        stream: records by position.
        stage: its mixture of phases and records per step.
        data: sharing, packing, what to do with damage.
        phases: settings of the phases.
        encoder: tokens and loss weights.
        pixels: image bytes (and where they are from, to name it) to pixels [3, H, W].
        rejects: file that names every record that cannot be used.
        overfit: every item is the first one.
        rank, world: this process among all; given, never detected in a worker.
    """

    def __init__(
        self,
        stream: Stream,
        stage: config.TrainStage,
        data: config.Data,
        phases: config.Phases,
        encoder: DialogueEncoder,
        pixels: Callable[[bytes, str], Tensor],
        rejects: Path,
        overfit: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.stream, self.stage, self.data, self.phases = stream, stage, data, phases
        self.encoder, self.pixels, self.rejects = encoder, pixels, rejects
        self.overfit, self.rank, self.world = overfit, rank, world

    def __len__(self) -> int:
        return self.stage.steps

    def __getitem__(self, step: int) -> Batch:
        places = self.stream.step(0 if self.overfit else step, self.stage.records_per_step)
        return self.collated(self._sample(place) for place in places[self.rank :: self.world])

    def collated(self, samples: Iterable[Example | None]) -> Batch:
        """Samples as forests."""
        return collate((sample for sample in samples if sample), self.data.tokens_per_forest)

    def _sample(self, place: Place) -> Example | None:
        where, shards = self.stream.where(place), self.stream.shards(place)
        try:
            record = shards.record(place.sample)
            picture = shards.features(place.sample) if self.data.features else shards.image(place.sample)
            return self.example(record, picture, where, self.stream.rng(place))
        except (RecordError, ChangedShardError) as error:
            self.reject(where, str(error))
            return None

    def example(self, record: Record, picture: bytes | Tensor | None, where: str, rng: Random) -> Example:
        """One record's trees and pixels or features; without a tree if it gives nothing to train on.

        Args:
            record: what it says.
            picture: its image's bytes, or with `data.features` its stored features [V, D_v].
            where: shard and key to name in an error.
            rng: of this sample in this epoch.

        Raises:
            RecordError: it cannot be used.
        """
        dialogues = supervised(record, self.stage.phases, self.phases)
        most = self.data.dialogues_per_record
        if most is not None and len(dialogues) > most:
            dialogues = [dialogues[i] for i in sorted(rng.sample(range(len(dialogues)), most))]
        encoded = [self.encoder.supervised(dialogue, where) for dialogue in dialogues]
        if not encoded:
            return Example([], None, where=where)
        if self.data.share_prefixes:
            trees = build_trees(encoded, self.data.tokens_per_forest)
        else:
            trees = [build_tree([one]) for one in encoded]
        if picture is None and record.image is not None:
            what = "stored features" if self.data.features else "an image file"
            raise RecordError(f"{where}: expected {what} beside the JSON, found none")
        split = self.data.share_prefixes and len(trees) > 1
        if isinstance(picture, Tensor):
            return Example(trees, None, picture, split, where)
        return Example(trees, None if picture is None else self.pixels(picture, where), split=split, where=where)

    def reject(self, where: str, reason: str) -> None:
        """Name what cannot be used in the reject file, or stop (`data.on_damage`).

        Raises:
            RecordError: on_damage is stop.
        """
        if self.data.on_damage == "stop":
            raise RecordError(reason)
        self.rejects.parent.mkdir(parents=True, exist_ok=True)
        with self.rejects.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"where": where, "reason": reason}) + "\n")


class HeldOut(StepDataset):
    """Every record of a dataset once, in steps, to measure the loss on."""

    def __len__(self) -> int:
        return math.ceil(len(self.stream.parts[0].shards) / self.stage.records_per_step)

    def __getitem__(self, step: int) -> Batch:
        size = self.stage.records_per_step
        last = min((step + 1) * size, len(self.stream.parts[0].shards))
        places = [Place(0, sample, 0) for sample in range(step * size, last)]
        return self.collated(self._sample(place) for place in places[self.rank :: self.world])
