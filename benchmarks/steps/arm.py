"""What every arm is given and answers to: the spec of its process, the settings they share, the meter of its steps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from steps.gate import Targets, save
from steps.machine import Memory, clock
from steps.models import ModelSpec
from steps.tuples import Shape, Tuple, make

if TYPE_CHECKING:
    from steps.vlm import VLMModel

LR, CLIP, BETAS, DECAY = 1e-4, 1.0, (0.9, 0.98), 0.01
STEPS = 1_000_000
FOREST = 16384
PARTS = ("data", "forward pass", "backward pass", "clipping and optimiser")
"""Of a step of our trainer."""


class Finished(Exception):
    """The coordinator wants no more steps."""


@dataclass(frozen=True)
class ArmSpec:
    """What a process trains."""

    name: str
    model: ModelSpec | VLMModel
    shape: Shape
    tuples: int = 16  # different ones
    per_step: int = 1  # of an optimiser step
    forest: int = FOREST  # tokens of our forests, at most
    threads: int = 2
    bf16: bool = True
    device: str = "cpu"
    gate: Path | None = None  # one step: write loss, gradients and targets there
    checkpointing: bool = False  # ours
    rows_at_once: int = 0  # TRL, plain HF: rows of a micro-batch; 0 is all of a step

    def data(self) -> Iterator[list[Tuple]]:
        """The tuples of each step, in order, again and again."""
        number = 0
        while True:
            yield [make(self.shape, (number + i) % self.tuples, self.model.image) for i in range(self.per_step)]
            number += self.per_step


@dataclass
class Meter:
    """Runs an arm's steps on request and reports their times.

    Args:
        pipe: receives (number of steps, whether to give freed memory back first), sends a report; None ends.
        device: that is waited for.
        gate: write what the first step learned there, and end.
    """

    pipe: Any
    device: str = "cpu"
    gate: Path | None = None
    targets: Targets = field(default_factory=Targets)

    def __post_init__(self) -> None:
        self.memory = Memory(self.device)

    @property
    def gating(self) -> bool:
        return self.gate is not None

    def start(self) -> None:
        """Before the first step."""
        self._wait()

    def gradients(self, loss: float, named: Iterator[tuple[str, Tensor | None]]) -> None:
        """Before the optimiser's step: in a gate, keep everything and end."""
        if self.gate is not None:
            save(self.gate, loss, {name: g for name, g in named if g is not None}, self.targets)
            raise Finished

    def step(self, loss: float, parts: dict[str, float] | None = None) -> None:
        """After every optimiser step; returns when the next one may begin.

        Args:
            loss: of the step.
            parts: seconds of its parts, where they are known.
        """
        now = clock(self.device)
        self.seconds.append(now - self._since)
        self.losses.append(loss)
        self.parts += [parts] if parts else []
        self.left -= 1
        if self.left:
            self._since = now
            return
        report = {
            "seconds": self.seconds, "losses": self.losses, "cpu": time.process_time() - self._cpu,
            "peak": self.memory.peak(), "before": self._before, "parts": self.parts,
        }  # fmt: skip
        self.pipe.send(report)
        self._wait()

    def _wait(self) -> None:
        order = self.pipe.recv()
        if order is None:
            raise Finished
        self.left, fresh = order
        if fresh:
            self.memory.forget()
        self.losses: list[float] = []
        self.parts: list[dict[str, float]] = []
        self.seconds: list[float] = []
        self._before = self.memory.now()
        self._cpu = time.process_time()
        self._since = clock(self.device)
