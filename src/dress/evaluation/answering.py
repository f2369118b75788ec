"""Answering on all ranks: slices of records shared out, and their outcomes gathered."""

from __future__ import annotations

import math
from collections.abc import Callable

from dress import config
from dress.evaluation.gathered import GatheredOutcomes
from dress.evaluation.outcomes import Outcome
from dress.model.lvlm import LVLM
from dress.train.parallel import share_out

RECORDS_PER_STEP = 64
"""Of one predict step, at most: many dialogues, of which those that fit are decoded together."""


def answer_everywhere(
    model: LVLM, work: Callable[[range], list[Outcome]], records: int, devices: config.Devices
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
    size = max(1, min(RECORDS_PER_STEP, math.ceil(records / devices.processes)))
    slices = [range(at, min(at + size, records)) for at in range(0, records, size)]
    gathered, outcomes = GatheredOutcomes(), list[Outcome]()
    gathered.update([])

    def answer(number: int) -> None:
        gathered.update(work(slices[number]))

    def gather() -> None:
        gathered.to(model.device)
        outcomes.extend(Outcome(**row) for row in gathered.compute())

    share_out(model, devices, answer, len(slices), gather)
    return outcomes
