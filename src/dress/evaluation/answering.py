"""Answering in Lightning's predict loop: the model on its device, slices of records shared out over ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import lightning as L
from torch.utils.data import DataLoader

from dress import config
from dress.callbacks import Interrupted
from dress.evaluation.gathered import GatheredOutcomes
from dress.evaluation.outcomes import Outcome
from dress.model.lvlm import LVLM
from dress.processes import build_trainer

RECORDS_PER_STEP = 64
"""Of one predict step, at most: many dialogues, of which those that fit are decoded together."""


class Answering(L.LightningModule):
    """One predict step answers and judges one slice of records.

    Args:
        model: answers; Lightning moves it to its device and back.
        work: outcomes of a slice.
        slices: of the records; each rank takes every `world_size`-th of them.
    """

    def __init__(self, model: LVLM, work: Callable[[range], list[Outcome]], slices: Sequence[range]) -> None:
        super().__init__()
        self.model, self.work, self.slices = model, work, slices
        self.gathered = GatheredOutcomes()
        self.outcomes: list[Outcome] = []
        """Of all ranks, on every rank, when the loop is over."""

    def predict_dataloader(self) -> DataLoader[int]:
        mine = range(self.trainer.global_rank, len(self.slices), self.trainer.world_size)
        return DataLoader(cast(Any, mine), batch_size=None)

    def on_predict_start(self) -> None:
        self.gathered.update([])

    def predict_step(self, number: int, batch_idx: int) -> int:
        """Answer a slice; returns how many records it has, since Lightning warns of a step without a result."""
        try:
            self.gathered.update(self.work(self.slices[number]))
        except KeyboardInterrupt:  # Lightning would end the process with exit code 1
            raise Interrupted from None
        return len(self.slices[number])

    def on_predict_epoch_end(self) -> None:
        self.outcomes = [Outcome(**row) for row in self.gathered.compute()]


def answer_everywhere(
    model: LVLM, work: Callable[[range], list[Outcome]], records: int, training: config.Training
) -> list[Outcome]:
    """The outcomes of all records, in their order; on every rank.

    Args:
        model: that `work` answers with.
        work: outcomes of the records of a range.
        records: how many there are.
        training: devices and strategy. Weights are used as they are, without autocast.

    Raises:
        Interrupted: SIGINT or SIGTERM.
    """
    size = max(1, min(RECORDS_PER_STEP, math.ceil(records / training.devices)))
    slices = [range(at, min(at + size, records)) for at in range(0, records, size)]
    module = Answering(model, work, slices)
    trainer = build_trainer(training)
    trainer.predict(module, return_predictions=False)
    return module.outcomes
