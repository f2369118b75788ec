"""What is logged of a stage's steps: means since the last point, by phase.

Shapes: P phases of the stage.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dress import config
from dress.dialogue.batch import Batch
from dress.kernels.memory import used_gib
from dress.objectives.lm import means
from dress.objectives.stage import StageObjectives
from dress.train.answer_pass import Figures

PHASES_OF_0_1 = ("align", "sft", "critique", "refinement", "rating", "best_of")
Reduce = Callable[[Tensor], Tensor]
"""A sum over ranks, on the CPU."""


class StepLog:
    """Sums of steps, and the points that are made of them.

    Args:
        stage: its phases and amounts.
        objectives: of its phases.
        steps_before: optimizer steps of the stages before, for `curriculum/step`.
        records: that there are, for `epoch`; 0 where it is not wanted.

    Attributes:
        history: points, by `curriculum/step`; kept in checkpoints.
        sums, held_out: [3, P] as in `objectives.lm.add_sums`, of what is trained on and what is not.
        image_gap: [3, P], of how much likelier held-out tokens are with the image than without.
        right: [P], supervised tokens that were the likeliest.
        figures: of comparisons.
        tokens: that went through the model since the last point, on this rank.
    """

    def __init__(self, stage: config.TrainStage, objectives: StageObjectives, steps_before: int, records: int) -> None:
        self.stage, self.objectives, self.steps_before, self.records = stage, objectives, steps_before, records
        self.phases = tuple(stage.phases)
        self.history: list[dict[str, float]] = []
        self.sums, self.held_out, self.image_gap = (
            torch.zeros(3, len(self.phases), dtype=torch.float64) for _ in range(3)
        )
        self.right = torch.zeros(len(self.phases), dtype=torch.float64)
        self.figures = Figures(objectives)
        self.tokens = 0
        # records split; tokens that full forests hold, tokens there; idle records
        self._packing = torch.zeros(4, dtype=torch.float64)
        self._supervised = 0.0  # tokens since the stage began
        self._since = time.monotonic()

    def add_packing(self, step: Batch) -> None:
        """How full a step's forests are, and how many records it had no use for."""
        self._packing += torch.tensor([step.split, step.capacity, step.filled, step.idle], dtype=torch.float64)

    def point(self, step: int, norm: float, lr: float, reduce: Reduce) -> dict[str, float]:
        """Means since the last point; begins anew, but for `tokens`.

        Args:
            step: optimizer steps of this stage.
            norm: of the last gradient.
            lr: of the last step.
            reduce: all ranks call.
        """
        reduced = reduce(torch.cat([self.sums, self.right[None]]))
        sums, right = reduced[:3], dict(zip(self.phases, reduced[3].tolist(), strict=True))
        logged = {"curriculum/step": float(self.steps_before + step)}
        for name, loss, count in means(sums, self.phases):
            logged[f"{name}/loss"] = loss
            logged[f"{name}/supervised_tokens"] = count
            if name not in self.objectives.distilling:
                logged[f"{name}/token_accuracy"] = right[name] / count
        logged |= self.figures.means(reduce)
        supervised = float(sums[2].sum())
        self._supervised += supervised
        if supervised:
            logged["train/loss"] = self.objectives.step_loss(sums)
            if not self.objectives.distilling:
                logged["train/token_accuracy"] = sum(right.values()) / supervised
        logged["train/supervised_tokens"] = self._supervised
        logged["train/records"] = step * self.stage.records_per_step
        if self.records:
            logged["epoch"] = logged["train/records"] / self.records
        split, capacity, filled, idle = reduce(self._packing).tolist()
        logged["train/split_trees"] = split
        logged["train/idle_records"] = idle  # their phases found nothing to learn in them
        if capacity:
            logged["train/forest_fill"] = filled / capacity
        logged["train/grad_norm"] = norm
        logged["train/lr"] = lr
        self.history.append(logged)
        for one in (self.sums, self.right, self._packing):
            one.zero_()
        return logged

    def speed(self, point: Mapping[str, float], ranks: int, device: torch.device) -> dict[str, float]:
        """What no run repeats, since the last call: tokens per second of all ranks, memory of the first."""
        seconds = max(time.monotonic() - self._since, 1e-9)
        supervised = sum(value for name, value in point.items() if name in self._counts)
        speed = {
            "train/tokens_per_second": self.tokens * ranks / seconds,
            "train/supervised_tokens_per_second": supervised / seconds,
            "train/memory_gib": used_gib(device),
        }
        self._since, self.tokens = time.monotonic(), 0
        return speed

    @property
    def _counts(self) -> set[str]:
        return {f"{name}/supervised_tokens" for name in self.phases}

    def held_out_point(self, step: int, reduce: Reduce) -> dict[str, float]:
        """Mean loss on held-out records, by phase, and how much the image tells of them; begins anew."""
        logged = {"curriculum/step": float(self.steps_before + step)}
        losses, gaps = (means(reduce(one), self.phases) for one in (self.held_out, self.image_gap))
        logged |= {f"val/{name}/loss": loss for name, loss, _ in losses}
        logged |= {f"val/{name}/image_gap": gap for name, gap, _ in gaps}
        if self.history and self.history[-1]["curriculum/step"] == logged["curriculum/step"]:
            self.history[-1] |= logged  # one point
        else:
            self.history.append(logged)
        self.held_out.zero_()
        self.image_gap.zero_()
        return logged

    def state(self) -> dict[str, Any]:
        """For a checkpoint: what was logged, and the sums since the last point."""
        return {
            "history": self.history, "sums": dict(zip(self.phases, self.sums.T.tolist(), strict=True)),
            "packing": self._packing.tolist(), "right": dict(zip(self.phases, self.right.tolist(), strict=True)),
            "supervised": self._supervised,
            "figures": {name: one.tolist() for name, one in self.figures.values.items()},
        }  # fmt: skip

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave, here or in an earlier version."""
        self.history, sums = state["history"], state["sums"]
        if isinstance(sums, list):  # of 0.1, which had a column for each phase that there was
            sums = dict(zip(PHASES_OF_0_1, zip(*sums, strict=True), strict=True))
        self.sums = torch.tensor(
            [sums.get(name, [0.0] * 3) for name in self.phases], dtype=torch.float64
        ).T.contiguous()
        right = state.get("right", {})  # nothing in those of 0.1
        self.right = torch.tensor([right.get(name, 0.0) for name in self.phases], dtype=torch.float64)
        self._supervised = state.get("supervised", 0.0)
        packing = torch.tensor(state["packing"], dtype=torch.float64)
        self._packing[: len(packing)] = packing
        for name, one in state.get("figures", {}).items():
            self.figures.values[name] = torch.tensor(one, dtype=torch.float64)
