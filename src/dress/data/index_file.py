"""`index.json`: what `index.index_shard` found, kept beside the shards; checked like any file that others wrote.

Its first line is the checksum of all that follows.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from filelock import FileLock
from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from dress.base.files import write_json, write_text
from dress.data.index import MAX_MEMBER_BYTES, Format, check_regular

INDEX = "index.json"
INDEX_VERSION = 4
CHECKSUM = re.compile(rb'\{"checksum": "([0-9a-f]{64})",\n')
IMPORT_FILE, SUMS_FILE = "import.json", "SHA256SUMS"
"""What an import and a published dataset write: checksums of files by name."""

Offset = Annotated[int, Field(ge=0, le=1 << 60)]
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
    version: Literal[3, 4]  # 3 had no checksum of its own
    format: Format
    ignore: list[str]
    shards: list[Entry]
    checksum: NotRequired[str]


_INDEX = TypeAdapter(Index)


class ShardError(ValueError):
    """A shard that cannot be read whole; the message names the file, expected and got."""


def read_index(path: Path) -> Index | None:
    """An index, or None where there is none, or one of a version that this one does not know any more.

    Raises:
        ShardError: it was changed since it was written, or is no index.
    """
    try:
        check_regular(path)
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except ValueError as error:
        if not path.is_symlink() and not path.exists():
            return None
        raise ShardError(str(error)) from None
    try:
        return _checked(data, str(path))
    except ShardError:
        if _is_older(data):
            return None
        raise


def parse_index(data: bytes, where: str) -> Index:
    """The index of remote shards.

    Raises:
        ShardError: not one that this version reads, or changed since it was written.
    """
    make = "Run `python src/prepare.py task=index path=FOLDER` where the shards are, and upload index.json beside them"
    try:
        index = _checked(data, where)
    except ShardError as error:
        raise ShardError(f"{str(error).removesuffix(MEND)}{make}") from None
    if index["version"] != INDEX_VERSION:
        raise ShardError(f"{where}: expected an index of version {INDEX_VERSION}, got {index['version']}. {make}")
    for entry in index["shards"]:
        if not _is_below(entry["name"]):
            raise ShardError(f"{where}: expected names of shards below it, got {entry['name']!r:.80}. {make}")
    return index


MEND = "Delete it: it is made anew from the shards (with format and ignore as task=index was given)"


def _checked(data: bytes, where: str) -> Index:
    """Raises ShardError: no index, or another checksum than it says."""
    said = CHECKSUM.match(data)
    if said is not None:
        got = hashlib.sha256(memoryview(data)[said.end() :]).hexdigest()
        if got != said[1].decode():
            raise ShardError(
                f"{where}: changed or damaged since it was written (sha256 {said[1].decode()[:12]} expected, "
                f"{got[:12]} got). {MEND}"
            )
    try:
        index = _INDEX.validate_json(data)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, problem["loc"])) or "(whole)"
        raise ShardError(
            f"{where}: expected an index of version {INDEX_VERSION}, got another ({place}: {problem['msg']}). {MEND}"
        ) from None
    if index["version"] == INDEX_VERSION and said is None:
        raise ShardError(f"{where}: expected its checksum in the first line, got {data[:20]!r}. {MEND}")
    return index


def _is_older(data: bytes) -> bool:
    """Whether it is an index of the first versions."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and value.get("version") in (1, 2) and "shards" in value


def _is_below(name: str) -> bool:
    parts = name.split("/")
    return bool(name) and ".." not in parts and "" not in parts and "://" not in name and "\\" not in name


def write_index(path: Path, entries: Sequence[Any], form: Format, ignore: Collection[str]) -> None:
    """Write an index; a read-only folder is indexed anew each time. Several processes may write the same one."""
    index = {"version": INDEX_VERSION, "format": form, "ignore": list(ignore), "shards": list(entries)}
    rest = json.dumps(index, indent=1, ensure_ascii=False, allow_nan=False).removeprefix("{\n") + "\n"
    checksum = hashlib.sha256(rest.encode()).hexdigest()
    with contextlib.suppress(OSError):
        aside = path.with_name(f"{path.name}.{os.getpid()}")
        write_text(aside, f'{{"checksum": "{checksum}",\n{rest}')
        aside.replace(path)


def known_checksums(folder: Path) -> dict[str, str]:
    """The sha256 of files below `folder`, by name, as an import or a published dataset noted them there or above.

    Raises:
        ShardError: the file that holds them is damaged.
    """
    found: dict[str, str] = {}
    for above, prefix in ((folder.absolute().parent, f"{folder.absolute().name}/"), (folder, "")):
        for file, read in ((above / SUMS_FILE, _sums), (above / IMPORT_FILE, _imported)):
            if os.path.lexists(file):
                try:
                    check_regular(file)
                    sums = read(file.read_text(encoding="utf-8"))
                except (ValueError, RecursionError) as error:
                    raise ShardError(
                        f"{file}: expected the checksums of shards, got a damaged file ({error!s:.200}). Restore it, "
                        f"or delete it to go on without"
                    ) from None
                found |= {n.removeprefix(prefix): sha256 for n, sha256 in sums.items() if n.startswith(prefix)}
    return found


def _imported(text: str) -> Mapping[str, str]:
    value = json.loads(text)
    if not isinstance(value, dict) or "files" not in value:
        return {}
    return TypeAdapter(dict[str, str]).validate_python(value["files"])


def _sums(text: str) -> Mapping[str, str]:
    """Lines of `sha256sum`."""
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return {name.removeprefix("*"): sha256 for sha256, name in lines}


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
