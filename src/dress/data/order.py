"""The order of samples: a pure function of seed, epoch and index.

A permutation of shards, then a shuffle inside a window of shards: random enough to learn from, local
enough to stream. Nothing is stored, so a position in the order is all that resuming needs.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

from dress.base.seeding import rng_for

SHUFFLE_WINDOW = 16
"""Shards that are shuffled together."""
BLOCK = 4096
"""Positions of a mixture in which every dataset has its exact share."""


def epoch_order(seed: int, epoch: int, lengths: Sequence[int], window: int = SHUFFLE_WINDOW) -> array[int]:
    """Sample indices of one epoch, each exactly once; four bytes a sample.

    Args:
        seed: the run's seed.
        epoch: 0 for the first pass.
        lengths: number of samples in each shard.
        window: number of shards shuffled together.
    """
    rng = rng_for(seed, epoch, "order")
    starts = list(accumulate(lengths, initial=0))
    shards = list(range(len(lengths)))
    rng.shuffle(shards)
    order = array("I")
    for first in range(0, len(shards), window):
        samples = [sample for s in shards[first : first + window] for sample in range(starts[s], starts[s + 1])]
        rng.shuffle(samples)
        order.extend(samples)
    return order


def quotas(weights: Sequence[float]) -> list[int]:
    """Positions of a block that each dataset gets: weight x BLOCK, rounded to the largest remainders.

    Raises:
        ValueError: a weight so small that it gets none.
    """
    shares = [weight / sum(weights) * BLOCK for weight in weights]
    counts = [int(share) for share in shares]
    for i in sorted(range(len(shares)), key=lambda i: counts[i] - shares[i])[: BLOCK - sum(counts)]:
        counts[i] += 1
    if min(counts) < 1:
        raise ValueError(f"weights {list(weights)}: expected each at least 1/{BLOCK} of their sum, got less")
    return counts


@lru_cache(maxsize=8)
def _block(seed: int, block: int, counts: tuple[int, ...]) -> list[tuple[int, int]]:
    """(dataset, how many of its positions stand before) for every position of a block."""
    owners = [part for part, count in enumerate(counts) for _ in range(count)]
    rng_for(seed, block, "mixture").shuffle(owners)
    before = [0] * len(counts)
    places = []
    for part in owners:
        places.append((part, before[part]))
        before[part] += 1
    return places


def mixed(position: int, seed: int, counts: tuple[int, ...]) -> tuple[int, int]:
    """Which dataset a position of a mixture belongs to, and which position of that dataset's own order it is.

    Args:
        position: in the mixture.
        seed: the run's seed.
        counts: from `quotas`.
    """
    block, place = divmod(position, BLOCK)
    part, before = _block(seed, block, counts)[place]
    return part, block * counts[part] + before
