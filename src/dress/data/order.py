"""The order of samples: a pure function of seed, epoch and index.

A permutation of shards, then a shuffle inside a window of shards: random enough to learn from, local
enough to stream. Nothing is stored, so a position in the order is all that resuming needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from dress.seeding import rng_for

SHUFFLE_WINDOW = 16
"""Shards that are shuffled together."""


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, lengths: tuple[int, ...], window: int = SHUFFLE_WINDOW) -> list[int]:
    """Sample indices of one epoch, each exactly once.

    Args:
        seed: the run's seed.
        epoch: 0 for the first pass.
        lengths: number of samples in each shard.
        window: number of shards shuffled together.
    """
    rng = rng_for(seed, epoch, "order")
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    shards = list(range(len(lengths)))
    rng.shuffle(shards)
    order: list[int] = []
    for first in range(0, len(shards), window):
        part = [starts[s] + i for s in shards[first : first + window] for i in range(lengths[s])]
        rng.shuffle(part)
        order += part
    return order


def step_slice(step: int, size: int, seed: int, lengths: Sequence[int]) -> list[int]:
    """Sample indices of optimiser step `step`: `size` records of the endless sequence of epochs."""
    total = sum(lengths)
    positions = range(step * size, (step + 1) * size)
    return [epoch_order(seed, p // total, tuple(lengths))[p % total] for p in positions]
