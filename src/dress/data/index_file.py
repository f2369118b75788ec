"""`index.json`: what `index.index_shard` found, kept beside the shards; checked like any file that others wrote."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from filelock import FileLock
from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from dress.data.index import MAX_MEMBER_BYTES, Format
from dress.files import write_json

INDEX = "index.json"
INDEX_VERSION = 3

Offset = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(ge=0, le=MAX_MEMBER_BYTES)]


class Entry(TypedDict):
    """One shard: its file, its samples [(key, {extension: (offset, size)})], and what in it cannot be used."""

    name: str
    size: Offset
    mtime_ns: int
    sha256: str
    samples: list[tuple[str, dict[str, tuple[Offset, Size]]]]
    problems: list[tuple[str, str]]
    features: dict[str, Any] | None
    tag: NotRequired[str | None]  # ETag or the like, of a remote shard


class Index(TypedDict):
    version: Literal[3]
    format: Format
    ignore: list[str]
    shards: list[Entry]


_INDEX = TypeAdapter(Index)


class ShardError(ValueError):
    """A shard that cannot be read whole; the message names the file, expected and got."""


def read_index(path: Path) -> Index | None:
    """An index, or None where there is none that this version reads."""
    try:
        return _INDEX.validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def parse_index(data: bytes, where: str) -> Index:
    """The index of remote shards.

    Raises:
        ShardError: not one that this version reads.
    """
    try:
        return _INDEX.validate_json(data)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, problem["loc"])) or "(whole)"
        raise ShardError(
            f"{where}: expected an index of version {INDEX_VERSION}, got another ({place}: {problem['msg']}). Run "
            f"`python src/prepare.py task=index path=FOLDER` where the shards are, and upload index.json beside them"
        ) from None


def write_index(path: Path, entries: Sequence[Any], form: Format, ignore: Collection[str]) -> None:
    """Write an index; a read-only folder is indexed anew each time. Several processes may write the same one."""
    with contextlib.suppress(OSError):
        aside = path.with_name(f"{path.name}.{os.getpid()}")
        write_json(aside, {"version": INDEX_VERSION, "format": form, "ignore": list(ignore), "shards": list(entries)})
        aside.replace(path)


def update_json(path: Path, new: dict[str, str]) -> None:
    """Put entries into a JSON object that several processes share."""
    with FileLock(path.with_name(path.name + ".lock")):
        write_json(path, {**read_tags(path), **new})


def read_tags(path: Path) -> dict[str, str]:
    """The object that `update_json` wrote, empty where there is none."""
    try:
        return TypeAdapter(dict[str, str]).validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return {}
