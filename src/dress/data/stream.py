"""The stream of a train stage: one dataset, or several mixed by weight, in one endless exact order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dress import config
from dress.data.cache import ShardCache, is_remote
from dress.data.order import SHUFFLE_WINDOW, mixed, quotas, sample
from dress.data.shards import Sample, Shards, open_shards
from dress.seeding import seed_for


@dataclass(frozen=True)
class Part:
    """A dataset of a mixture; every `sum of weights ÷ weight`-th record is its."""

    name: str
    shards: Shards
    weight: float = 1.0


class Stream:
    """Records by position: a pure function of (seed, position), so that a position is all that resuming needs.

    Every dataset goes through its own epochs, each record once per epoch; in every `order.BLOCK`
    positions each has its exact share.

    Args:
        parts: datasets; one or several.
        seed: of the order.
        window: shards shuffled together.
    """

    def __init__(self, parts: Sequence[Part], seed: int, window: int = SHUFFLE_WINDOW) -> None:
        assert parts
        self.parts, self.seed, self.window = list(parts), seed, window
        self._counts = tuple(quotas([part.weight for part in parts]))

    def step(self, step: int, size: int) -> list[tuple[int, int]]:
        """(part, sample) of each of the `size` records of optimiser step `step`."""
        return [self.at(position) for position in range(step * size, (step + 1) * size)]

    def at(self, position: int) -> tuple[int, int]:
        """Which part's which sample stands at a position."""
        if len(self.parts) == 1:
            return 0, sample(position, self.seed, tuple(self.parts[0].shards.lengths), self.window)
        part, own = mixed(position, self.seed, self._counts)
        chosen = self.parts[part]
        return part, sample(own, seed_for(self.seed, chosen.name), tuple(chosen.shards.lengths), self.window)

    def __getitem__(self, place: tuple[int, int]) -> Sample:
        part, index = place
        return self.parts[part].shards[index]

    def where(self, place: tuple[int, int]) -> str:
        """`shard.tar: key` of a sample, to name it in an error."""
        part, index = place
        return self.parts[part].shards.where(index)

    @property
    def damage(self) -> list[str]:
        """What was passed over with `data.on_damage=skip`."""
        return [line for part in self.parts for line in part.shards.damage]

    @property
    def fingerprint(self) -> str:
        """Equal for equal records in equal order."""
        if len(self.parts) == 1:
            return self.parts[0].shards.fingerprint
        text = "\n".join(f"{part.name} {part.weight!r} {part.shards.fingerprint}" for part in self.parts)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def open_split(place: str | Path, root: str | Path, data: config.Data) -> Shards:
    """The shards at `place`, a path or URL, relative to `root`, read as `data` says."""
    if not is_remote(str(place)):
        place = f"{str(root).rstrip('/')}/{place}" if is_remote(str(root)) else Path(root) / place
    return open_shards(
        place, on_damage=data.on_damage, verify=data.verify, window=data.window,
        cache=ShardCache(data.cache_dir, data.cache_gb, data.allow_pipe),
    )  # fmt: skip


def open_stream(source: config.Source | Path, root: str | Path, data: config.Data, seed: int) -> Stream:
    """The stream of a split: one dataset or a mixture."""
    if isinstance(source, dict):
        parts = [Part(name, open_split(one.path, root, data), one.weight) for name, one in source.items()]
    else:
        parts = [Part("", open_split(source, root, data))]
    return Stream(parts, seed, data.window)
