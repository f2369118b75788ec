"""The worlds by name: `data.world=NAME`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

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


_worlds: dict[str, World] = {}


def register(name: str, world: World) -> None:
    """Offer a world under a name.

    Raises:
        ValueError: another world has this name.
    """
    if _worlds.setdefault(name, world) is not world:
        raise ValueError(f"world {name}: expected a new name, got that of another world")


def world_named(name: str) -> World:
    """The world that registered under a name.

    Raises:
        ValueError: there is none.
    """
    import_worlds()
    if name not in _worlds:
        raise ValueError(f"data.world: expected one of {', '.join(sorted(_worlds))}, got {name}")
    return _worlds[name]
