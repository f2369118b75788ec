"""reward_weighted: the loss of `lm`, where an answer weighs exp((rating - 4) / temperature).

Reward-weighted regression (Peters and Schaal, 2007) on ratings. By tokens.
"""

from __future__ import annotations

import math

from dress import config
from dress.record import TOP_RATING


def weight_of(rating: int, settings: config.RewardWeighted) -> float:
    """What an answer of this rating (1-4) weighs, at most 1."""
    return math.exp((rating - TOP_RATING) / settings.temperature)
