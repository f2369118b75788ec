"""The optimizer and the schedule of a stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from dress import config
from dress.config.targets import OPTIMIZER, SCHEDULER, build


def build_optimizer(
    parameters: Sequence[Tensor], stage: config.TrainStage, learning: config.Learning
) -> tuple[Any, Any]:
    """The optimizer and schedule of the settings; biases and norms (vectors) are not decayed.

    Raises:
        ValueError: arguments that their classes refuse; names the setting.
    """
    decayed = [p for p in parameters if p.ndim >= 2]
    plain = [p for p in parameters if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": stage.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = build(learning.optimizer, "optimizer", OPTIMIZER, groups, lr=stage.rate)
    scheduler = build(
        learning.scheduler, "scheduler", SCHEDULER, optimizer,
        num_warmup_steps=round(stage.total_steps * stage.warmup), num_training_steps=stage.total_steps,
    )  # fmt: skip
    return optimizer, scheduler


def set_rate(checkpoint: dict[str, Any], rate: float) -> None:
    """Give the optimizer and schedule of a checkpoint this learning rate: it may be changed beside `resume`."""
    (scheduler,) = checkpoint["lr_schedulers"]
    if "base_lrs" not in scheduler:
        return
    factor = rate / scheduler["base_lrs"][0]
    scheduler["base_lrs"] = [rate for _ in scheduler["base_lrs"]]
    scheduler["_last_lr"] = [one * factor for one in scheduler["_last_lr"]]
    for group in (group for state in checkpoint["optimizer_states"] for group in state["param_groups"]):
        group["initial_lr"], group["lr"] = rate, group["lr"] * factor
