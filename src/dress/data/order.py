"""The order of samples: a pure function of seed, epoch and index.

A permutation of shards, then a shuffle inside a window of shards: random enough to learn from, local
enough to stream. Nothing is stored, so a position in the order is all that resuming needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from random import Random

import numpy as np

from dress.base.seeding import rng_for

SHUFFLE_WINDOW = 16
"""Shards that are shuffled together."""
BLOCK = 4096
"""Positions of a mixture in which every dataset has its exact share."""


class EpochOrder:
    """Sample indices of one epoch, each exactly once: a window is shuffled when it is asked for, and the last one kept.

    One generator shuffles the shards, and then window after window. So a place costs the windows before it once; a
    place before the window that is kept costs them again.

    Args:
        seed: the run's seed.
        epoch: 0 for the first pass.
        lengths: number of samples in each shard.
        window: number of shards shuffled together.
    """

    def __init__(self, seed: int, epoch: int, lengths: Sequence[int], window: int = SHUFFLE_WINDOW) -> None:
        rng = rng_for(seed, epoch, "order")
        shards = list(range(len(lengths)))
        _shuffle(shards, rng)
        self._rng, self._begin, self._window = rng, rng.getstate(), window
        self._shards, sizes = np.array(shards, np.int32), np.asarray(lengths, np.int64)
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        """Samples: shard s has those from starts[s] to starts[s + 1]."""
        self._stops = np.cumsum(np.add.reduceat(sizes[self._shards], np.arange(0, len(shards), window)))
        """Places: window w has those before stops[w]."""
        self._number = -1
        self._samples: list[int] = []

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __iter__(self) -> Iterator[int]:
        for number in range(len(self._stops)):
            yield from self._of_window(number)

    def __getitem__(self, place: int) -> int:
        place = range(len(self))[place]
        number = int(np.searchsorted(self._stops, place, side="right"))
        samples = self._of_window(number)
        return samples[place - int(self._stops[number])]  # counted from the window's end

    def _of_window(self, number: int) -> list[int]:
        """The samples of a window in their order."""
        if number < self._number:
            self._rng.setstate(self._begin)
            self._number = -1
        while self._number < number:
            self._number += 1
            first = self._number * self._window
            shards = self._shards[first : first + self._window]
            spans = zip(self._starts[shards].tolist(), self._starts[shards + 1].tolist(), strict=True)
            self._samples = list(chain.from_iterable(range(*span) for span in spans))
            _shuffle(self._samples, self._rng)
        return self._samples


def _shuffle(items: list[int], rng: Random) -> None:
    """What `rng.shuffle(items)` does, without its two calls of Python functions an item: less than half the time."""
    draw, last = rng.getrandbits, len(items) - 1
    while last > 0:
        bits = (last + 1).bit_length()
        smallest = max((1 << bits - 1) - 1, 1)
        for i in range(last, smallest - 1, -1):
            other = draw(bits)
            while other > i:
                other = draw(bits)
            items[i], items[other] = items[other], items[i]
        last = smallest - 1


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
