"""The stream of a train stage: one dataset, or several mixed by weight, in one endless exact order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NamedTuple

from dress import config
from dress.base.seeding import rng_for, seed_for
from dress.data.cache import ShardCache, is_remote
from dress.data.order import SHUFFLE_WINDOW, EpochOrder, mixed, quotas
from dress.data.remote import RemoteShards, open_shards
from dress.data.shards import Sample, Shards


@dataclass(frozen=True)
class Part:
    """A dataset of a mixture; every `sum of weights ÷ weight`-th record is its."""

    name: str
    shards: Shards
    weight: float = 1.0


class Place(NamedTuple):
    """Which dataset of a stream, which of its samples, and which pass over that dataset it is."""

    part: int
    sample: int
    epoch: int


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
        self._orders: dict[tuple[int, int], EpochOrder] = {}

    def step(self, step: int, size: int) -> list[Place]:
        """Where each of the `size` records of optimiser step `step` is."""
        return [self.at(position) for position in range(step * size, (step + 1) * size)]

    def at(self, position: int) -> Place:
        """Which part's which sample stands at a position."""
        part, own = (0, position) if len(self.parts) == 1 else mixed(position, self.seed, self._counts)
        epoch, place = divmod(own, len(self.parts[part].shards))
        return Place(part, self._order(part, epoch)[place], epoch)

    def _order(self, part: int, epoch: int) -> EpochOrder:
        """Of one pass over a dataset; the two used last are kept."""
        order = self._orders.get((part, epoch))
        if order is None:
            dataset = self.parts[part]
            seed = self.seed if len(self.parts) == 1 else seed_for(self.seed, dataset.name)
            order = EpochOrder(seed, epoch, dataset.shards.lengths, self.window)
            for old in [key for key in self._orders if key[0] == part][:-1]:
                del self._orders[old]
            self._orders[part, epoch] = order
        return order

    def __getitem__(self, place: Place) -> Sample:
        return self.shards(place)[place.sample]

    def shards(self, place: Place) -> Shards:
        """The dataset that a place is in."""
        return self.parts[place.part].shards

    def where(self, place: Place) -> str:
        """`shard.tar: key` of a sample, to name it in an error."""
        return self.shards(place).where(place.sample)

    def rng(self, place: Place) -> Random:
        """The randomness of a sample in one epoch: the same after a resume, in every worker, on every rank."""
        return rng_for(self.seed, self.parts[place.part].name, place.epoch, place.sample)

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
    """The shards at `place`, a path or URL, relative to `root`, read as `data` says.

    Raises:
        FileNotFoundError: a relative path is not there; says where it was looked for.
    """
    if not is_remote(str(place)) and not Path(place).is_absolute():
        if is_remote(str(root)):
            place = f"{str(root).rstrip('/')}/{place}"
        elif not (Path(root) / place).exists():
            raise FileNotFoundError(
                f"{Path(root) / place}: expected shards (*.tar), found none: what data.* names is below "
                f"data.path={root}, or an absolute path"
            )
        else:
            place = Path(root) / place
    shards = open_shards(
        place, on_damage=data.on_damage, verify=data.verify, window=data.window,
        cache=ShardCache(data.cache_dir, data.cache_gb, data.allow_pipe),
    )  # fmt: skip
    shards.max_aspect = data.max_aspect
    return shards


def open_stream(
    source: config.Source | Path, root: str | Path, data: config.Data, seed: int,
    opened: dict[str, Shards] | None = None,
) -> Stream:  # fmt: skip
    """The stream of a split: one dataset or a mixture; `opened` holds what was opened before.

    Raises:
        ValueError: the windows of the mixture's remote datasets do not fit into the cache together.
    """
    datasets = {} if opened is None else opened

    def shards(place: str | Path) -> Shards:
        if str(place) not in datasets:
            datasets[str(place)] = open_split(place, root, data)
        return datasets[str(place)]

    if isinstance(source, dict):
        parts = [Part(name, shards(one.path), one.weight) for name, one in source.items()]
    else:
        parts = [Part("", shards(source))]
    need = sum(part.shards.window_bytes() for part in parts if isinstance(part.shards, RemoteShards))
    if need > data.cache_gb * 1e9:
        raise ValueError(
            f"data.window={data.window}: the windows of {', '.join(part.name for part in parts)} take up to "
            f"{need / 1e9:.3g} GB together, more than data.cache_gb={data.cache_gb:g}. Enlarge data.cache_gb"
        )
    return Stream(parts, seed, data.window)
