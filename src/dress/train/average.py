"""A moving average of the weights that are trained: the teacher of `objectives.distill.teacher=average`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """Begins as the weights that are trained are.

    Args:
        model: whose.
        decay: share of the average that a step keeps.
        values: an earlier average, to go on with.
    """

    def __init__(self, model: nn.Module, decay: float, values: Mapping[str, Tensor] | None = None) -> None:
        self.decay = decay
        self._trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
        values = values or {}
        self.values = {
            name: values.get(name, one.detach()).to(one.device, one.dtype, copy=True)
            for name, one in self._trained.items()
        }

    def update(self) -> None:
        """After a step."""
        with torch.no_grad():
            for name, one in self._trained.items():
                self.values[name].lerp_(one.detach(), 1 - self.decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the context the model has the average for weights; nothing is copied."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for name, one in self._trained.items():
            one.data, self.values[name] = self.values[name], one.data
