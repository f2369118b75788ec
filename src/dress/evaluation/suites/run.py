"""Outcomes of all ranks as one torchmetrics metric: every figure is computed from the whole, once per sample."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from dress.evaluation.outcomes import Outcome


class GatheredOutcomes(Metric):
    """The outcomes that every rank saw.

    Its state is their JSON lines as bytes, so that they travel between ranks as any metric's state does.
    A sampler that repeats a sample to fill its last batch changes nothing: outcomes of one model,
    condition, item and turn are one.
    """

    full_state_update = False
    lines: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("lines", default=[], dist_reduce_fx="cat")

    def update(self, outcomes: Sequence[Outcome]) -> None:
        """Add outcomes; a rank that has none still calls this once, or it could not take part."""
        text = "".join(json.dumps(asdict(outcome)) + "\n" for outcome in outcomes)
        self.lines.append(torch.frombuffer(bytearray(text.encode() or b"\n"), dtype=torch.uint8).to(self.device))

    def compute(self) -> list[dict[str, Any]]:
        """All of them as plain data, sorted by model, condition, item and turn (`Outcome(**row)` makes them again)."""
        text = bytes(dim_zero_cat(self.lines).cpu().numpy()).decode()
        rows = [json.loads(line) for line in text.split("\n") if line]
        unique = {(row["model"], row["condition"], _number(row), row["turn"]): row for row in rows}
        return [unique[place] for place in sorted(unique)]


def _number(row: dict[str, Any]) -> int:
    """Which dialogue of the whole set an outcome is of (see `Outcome.item`)."""
    return int(row["item"].rpartition("/")[2])
