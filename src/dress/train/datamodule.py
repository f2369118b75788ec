"""The LightningDataModule of a train stage; the number of trained steps is the whole position in its data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
from torch.utils.data import DataLoader, Sampler

from dress import config
from dress.base.files import read_lines
from dress.dialogue.batch import Batch
from dress.train.steps import HeldOut, StepDataset
from dress.train.webdataset_reader import WebdatasetSteps


def rejected(file: Path) -> Counter[str]:
    """How many records (or shards) a reject file names, by reason without the place; each once, however often read."""
    reasons = {row["where"]: row["reason"] for row in read_lines(file)} if file.exists() else {}
    return Counter(reason.removeprefix(where).lstrip(": ") or reason for where, reason in reasons.items())


class _FromStep(Sampler[int]):
    """Steps from `start` on; its length is the whole stage's, as Lightning's loop counts."""

    def __init__(self, start: int, steps: int) -> None:
        self.start, self.steps = start, steps

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.steps))

    def __len__(self) -> int:
        return self.steps


def reading(data: config.Data) -> dict[str, Any]:
    """How a DataLoader reads whole steps: by which processes, and how many each has ready."""
    workers = data.workers
    return {
        "batch_size": None,
        "num_workers": workers,
        "prefetch_factor": 4 if workers else None,
        "multiprocessing_context": data.start_method if workers else None,
    }


class StageData(L.LightningDataModule):
    """Streams a stage; `state_dict` counts the steps that were trained, not those that were fetched."""

    def __init__(
        self, make: Callable[[int, int], StepDataset], data: config.Data, held_out: Callable[[int, int], HeldOut] | None
    ) -> None:
        super().__init__()
        self._make, self._held_out, self._data = make, held_out, data
        self._start = 0
        self._fingerprint = ""

    def whole_steps(self) -> list[StepDataset]:
        """What is trained on, and held out, as one process would read it."""
        return [make(0, 1) for make in (self._make, self._held_out) if make is not None]

    def train_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        dataset = self._make(self.trainer.global_rank, self.trainer.world_size)
        self._check(dataset)
        how = reading(self._data)
        if self._data.reader == "webdataset":
            if self._start:
                raise ValueError(
                    "data.reader=webdataset: its pipeline cannot go on inside an epoch. Resume with data.reader=indexed"
                )
            return DataLoader(WebdatasetSteps(dataset), **how)
        return DataLoader(dataset, sampler=_FromStep(self._start, len(dataset)), **how)

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        if self._held_out is None:
            return []
        assert self.trainer is not None
        dataset = self._held_out(self.trainer.global_rank, self.trainer.world_size)
        return DataLoader(dataset, batch_size=None, num_workers=0)

    def state_dict(self) -> dict[str, Any]:
        assert self.trainer is not None
        return {"steps": self.trainer.global_step, "shards": self._fingerprint}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._start, self._fingerprint = state_dict["steps"], state_dict["shards"]

    def _check(self, dataset: StepDataset) -> None:
        """Refuse to go on with other data than the run began with; name what is passed over."""
        now = dataset.stream.fingerprint
        if self._fingerprint and self._fingerprint != now:
            raise ValueError(
                f"{dataset.stage.data_title}: expected the shards that this run began with "
                f"({self._fingerprint}), got others ({now}). Restore them or start a new run"
            )
        self._fingerprint = now
        if dataset.rank == 0 and not self._start:
            for line in dataset.stream.damage:
                dataset.examples.reject(line, line)
