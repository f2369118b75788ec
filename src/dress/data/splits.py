"""A folder of shards as its splits: one folder of tar files each, or the tar files themselves."""

from __future__ import annotations

from pathlib import Path

from dress.data.cache import is_remote
from dress.data.shards import Damage, Shards, Verify

Splits = dict[str, Shards]
"""Name to shards; the name is empty where the tar files stand in the folder itself."""


def open_splits(path: str, on_damage: Damage = "stop", verify: Verify = "quick") -> Splits:
    """The splits below a local folder, by name.

    Raises:
        FileNotFoundError: no shard there.
        ValueError: a URL, or shards both in the folder and in folders below it.
        ShardError: a shard is damaged.
    """
    if is_remote(path):
        raise ValueError(f"path={path}: expected a local folder of shards, got a URL. Fetch it first")
    folder = Path(path)
    tars = [tar.relative_to(folder) for tar in sorted(folder.glob("**/*.tar"))]
    if not tars:
        raise FileNotFoundError(f"path={path}: expected shards (*.tar), found none")
    names = sorted({tar.parts[0] if len(tar.parts) > 1 else "" for tar in tars})
    if "" in names and len(names) > 1:
        raise ValueError(
            f"path={path}: expected shards in this folder or in folders below it, got both "
            f"({tars[0]} and {next(t for t in tars if len(t.parts) > 1)}). Name one of the folders"
        )
    return {name: Shards(folder / name, on_damage, verify) for name in names}
