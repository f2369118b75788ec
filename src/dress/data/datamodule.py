"""The LightningDataModule of a train stage: one item is one optimiser step.

A step is a fixed slice of the order of records, so that neither ranks nor workers change what is
learned, and the number of trained steps is the whole position in the data.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dress import config
from dress.data.images import open_image
from dress.data.order import step_slice
from dress.data.shards import Shards
from dress.dialogue.batch import Sample, Step, collate
from dress.dialogue.encode import Encoder
from dress.dialogue.tree import build_tree, build_trees
from dress.phases import supervised
from dress.record import RecordError


class StepDataset(Dataset[Step]):
    """Item n is what this rank trains on in optimiser step n.

    Args:
        shards: where the records are.
        stage: its mixture of phases and records per step.
        data: sharing, packing, what to do with damage.
        phases: settings of the phases.
        encoder: tokens and loss weights.
        preprocess: RGB image to pixels [3, H, W].
        seed: of the order.
        rank, world: this process among all; given, never detected in a worker.
        rejects: file that names every record that cannot be used.
    """

    def __init__(
        self,
        shards: Shards,
        stage: config.TrainStage,
        data: config.Data,
        phases: config.Phases,
        encoder: Encoder,
        preprocess: Callable[[Image.Image], Tensor],
        seed: int,
        rejects: Path,
        overfit: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.shards, self.stage, self.data, self.phases = shards, stage, data, phases
        self.encoder, self.preprocess, self.seed, self.rejects = encoder, preprocess, seed, rejects
        self.overfit, self.rank, self.world = overfit, rank, world

    def __len__(self) -> int:
        return self.stage.steps

    def __getitem__(self, step: int) -> Step:
        indices = step_slice(0 if self.overfit else step, self.stage.records_per_step, self.seed, self.shards.lengths)
        samples = [self._sample(index) for index in indices[self.rank :: self.world]]
        return collate((sample for sample in samples if sample), self.data.tokens_per_forest)

    def _sample(self, index: int) -> Sample | None:
        """One record's trees and pixels; None if it gives nothing to train on, or is set aside."""
        try:
            record, image = self.shards[index]
            dialogues = supervised(record, self.stage.phases, self.phases)
            encoded = [self.encoder.supervised(dialogue, self.shards.where(index)) for dialogue in dialogues]
            if not encoded:
                return None
            if self.data.share_prefixes:
                trees = build_trees(encoded, self.data.tokens_per_forest)
            else:
                trees = [build_tree([one]) for one in encoded]
            picture = None
            if image is not None:
                picture = self.preprocess(open_image(image, self.shards.where(index)))
            elif record.image is not None:
                raise RecordError(f"{self.shards.where(index)}: expected an image file beside the JSON, found none")
            return Sample(trees, picture)
        except RecordError as error:
            if self.data.on_damage == "stop":
                raise
            self.rejects.parent.mkdir(parents=True, exist_ok=True)
            with self.rejects.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"where": self.shards.where(index), "reason": str(error)}) + "\n")
            return None


class _FromStep(Sampler[int]):
    """Steps from `start` on; its length is the whole stage's, as Lightning's loop counts."""

    def __init__(self, start: int, steps: int) -> None:
        self.start, self.steps = start, steps

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.steps))

    def __len__(self) -> int:
        return self.steps


class StageData(L.LightningDataModule):
    """Streams a stage; `state_dict` counts the steps that were trained, not those that were fetched."""

    def __init__(self, make: Callable[[int, int], StepDataset], workers: int) -> None:
        super().__init__()
        self._make = make
        self._workers = workers
        self._start = 0
        self._fingerprint = ""

    def train_dataloader(self) -> DataLoader[Step]:
        assert self.trainer is not None
        dataset = self._make(self.trainer.global_rank, self.trainer.world_size)
        self._check(dataset)
        return DataLoader(
            dataset,
            batch_size=None,
            sampler=_FromStep(self._start, len(dataset)),
            num_workers=self._workers,
            prefetch_factor=4 if self._workers else None,
        )

    def state_dict(self) -> dict[str, Any]:
        assert self.trainer is not None
        return {"steps": self.trainer.global_step, "shards": self._fingerprint}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._start, self._fingerprint = state_dict["steps"], state_dict["shards"]

    def _check(self, dataset: StepDataset) -> None:
        """Refuse to go on with other data than the run began with."""
        now = dataset.shards.fingerprint
        if self._fingerprint and self._fingerprint != now:
            raise ValueError(
                f"{dataset.shards.folder}: expected the shards that this run began with "
                f"({self._fingerprint}), got others ({now}). Restore them or start a new run"
            )
        self._fingerprint = now
