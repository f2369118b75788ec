"""The schedule of the learning rate that DRESS trains with; any of transformers or torch may stand for it."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def cosine_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, min_lr_rate: float = 0.0
) -> LambdaLR:
    """Linear warm-up that begins above 0, then a cosine down to `min_lr_rate` of the stage's learning rate.

    In `transformers.get_cosine_with_min_lr_schedule_with_warmup` the first step has a learning rate of 0.

    Args:
        optimizer: whose learning rates are scaled.
        num_warmup_steps: at least one is taken.
        num_training_steps: of the stage; the last one has the lowest rate but one.
        min_lr_rate: share of the stage's learning rate, 0 to 1.
    """
    rise = max(1, num_warmup_steps)

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        turn = (step - rise) / max(1, num_training_steps - rise)
        return min_lr_rate + (1 - min_lr_rate) * 0.5 * (1 + math.cos(math.pi * min(1.0, turn)))

    return LambdaLR(optimizer, factor)
