"""The worlds by name: `data.world=NAME`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from dress.base.registry import Registry
from dress.data.shards import Sample
from dress.worlds import import_worlds


class World(Protocol):
    """Records with images that are made, not read; a module with these names is one."""

    @property
    def SPLITS(self) -> tuple[str, ...]:
        """Names of the splits that it makes."""
        ...

    def fingerprint(self, sizes: dict[str, int], seed: int) -> str:
        """Equal for settings that give equal records; the name of a folder.

        Args:
            sizes: number of records of each split.
            seed: of the world.
        """
        ...

    def samples(self, split: str, size: int, seed: int) -> Iterator[Sample]:
        """The records of a split with their images, the same for the same arguments.

        Args:
            split: one of `SPLITS`.
            size: number of records.
            seed: of the world.
        """
        ...


WORLDS: Registry[World] = Registry("world", "data.world")


def register(name: str, world: World) -> None:
    """Offer a world under a name.

    Raises:
        ValueError: another world has this name.
    """
    WORLDS.add(name, world)


def world_named(name: str) -> World:
    """The world that registered under a name.

    Raises:
        ValueError: there is none.
    """
    import_worlds()
    return WORLDS[name]
