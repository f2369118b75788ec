"""Where a run's shards are; a world's are written there first if they are missing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from dress import config
from dress.base.progress import CurriculumProgress
from dress.base.ranks import rank, wait_for
from dress.data.cache import is_remote
from dress.data.shards import Sample, Shards, write_shards
from dress.data.stream import open_split
from dress.worlds.registry import world_named


def prepared(data: config.Data, start: Callable[[int], None], advance: Callable[[], None]) -> Path | str:
    """The folder (or URL) that holds one folder of shards per split.

    A world's records are made under `data.path`, in a folder named by the fingerprint of its settings, and
    reused as long as they stay; written aside and renamed, so that it is there whole or not at all. The first process
    of a run makes them.

    Args:
        data: the settings.
        start: told how many records will be written.
        advance: called after each.

    Raises:
        ValueError: no world has this name, or it makes other splits than the sizes name.
    """
    if data.world is None:
        return data.path if is_remote(data.path) else Path(data.path)
    world, sizes = world_named(data.world), data.sizes.model_dump() if data.sizes is not None else {}
    if sizes.keys() != set(world.SPLITS):
        raise ValueError(
            f"data.sizes: expected the number of records of {', '.join(world.SPLITS)}, got {', '.join(sizes) or 'none'}"
        )
    folder = Path(data.path) / world.fingerprint(sizes, data.world_seed)
    if rank() > 0:
        wait_for(folder)
    if folder.exists():
        return folder
    aside = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    start(sum(sizes.values()))

    def counted(samples: Iterator[Sample]) -> Iterator[Sample]:
        for sample in samples:
            yield sample
            advance()

    for split in world.SPLITS:
        write_shards(aside / split, counted(world.samples(split, sizes[split], data.world_seed)), 500)
    try:
        aside.rename(folder)
    except OSError:  # another process was first, with equal bytes
        shutil.rmtree(aside)
    return folder


def open_prompts(shards: str | None, data: config.Data | None, progress: CurriculumProgress) -> Shards:
    """The records that a command asks about: of a folder of shards, or the prompts of data.

    Args:
        shards: the folder; None takes the data.
        data: says how shards are read, too.
        progress: shows a world that is made.

    Raises:
        FileNotFoundError: nothing there; says how to name others.
        ValueError: neither is given.
    """
    if shards is not None:
        return open_split(shards, ".", data or config.Data(path="."))
    if data is None:
        raise ValueError("expected records: data=shapes, data=shards data.path=DIR (its prompts), or shards=DIR")
    folder = prepared(data, lambda n: progress.start(f"world {data.world}", n), progress.advance)
    try:
        return open_split(data.prompts, folder, data)
    except FileNotFoundError as missing:
        raise FileNotFoundError(
            f"{missing}: data.prompts is where the questions come from. Name others: shards=DIR, or data=shards "
            f"data.path=DIR"
        ) from None
