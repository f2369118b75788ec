"""A folder of shards compared with its index; shards that are not in it are read to their last byte."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, NotRequired, cast

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from dress.base.files import checksum
from dress.data.index import Format, check_regular, detect_format, index_shard
from dress.data.index_file import INDEX, Index, ShardError, build_index, read_index, save_index, shard_row

OLD_INDEX = "index.json"
"""What INDEX was called before it was an Arrow file."""
IMPORT_FILE, SUMS_FILE = "import.json", "SHA256SUMS"
"""What an import and a published dataset write: checksums of files by name."""
PROBED_SHARDS = 3
"""In which a sample is looked for that tells records from captions."""
COMMAND = "python src/prepare.py task=index path="

Verify = Literal["quick", "full"]


@dataclass(frozen=True)
class Selection:
    """Shards of an index: its rows, in the order of the shards. The index may list others."""

    index: Index
    rows: Sequence[int]


class Known(NamedTuple):
    """What is known of a folder before its shards are looked at, and the name of the index that says so."""

    form: Format
    ignore: Sequence[str]
    sums: dict[str, str]
    file: str = INDEX


def shard_files(folder: Path) -> dict[str, os.stat_result]:
    """The tar files below a folder by their path in it, in the order of these, and what the file system says of them.

    Raises:
        FileNotFoundError: none there.
        ShardError: one that is no regular file.
    """
    names = []
    for place, folders, files in os.walk(folder):
        above = "" if place == str(folder) else f"{Path(place).relative_to(folder).as_posix()}/"
        names += [above + name for name in (*folders, *files) if name.endswith(".tar")]
    if not names:
        raise FileNotFoundError(f"{folder}: expected shards (*.tar), found none")
    names.sort(key=lambda name: name.split("/"))
    try:
        return {name: check_regular(os.path.join(folder, name)) for name in names}
    except ValueError as error:
        raise ShardError(str(error)) from None


class Opening:
    """Compares a local folder with its index, and makes the index where there is none.

    Args:
        folder: of tar files.
        verify: `quick`, by size and time of change; or `full`: checksums, places of samples, and images.
        report: takes a line on each shard or file that cannot be used; may raise.
    """

    def __init__(self, folder: Path, verify: Verify, report: Callable[[str], None]) -> None:
        self.folder, self.verify, self._report = folder, verify, report
        self._damage: list[str] = []

    def selection(self) -> Selection:
        """The shards that are as indexed. The index is written if it is new and nothing is damaged.

        Raises:
            FileNotFoundError: no shard there.
            ShardError: a shard is no regular file, or an index of an earlier version cannot be replaced here.
        """
        files = shard_files(self.folder)
        index = self._index()
        places = {} if index is None else {name: row for row, name in enumerate(index.names.to_pylist())}
        known = self._known(index, [name for name in files if name not in places])
        for name in sorted(places.keys() - files.keys()):
            self._name(f"{self.folder / name}: expected this shard, which {self.folder / INDEX} lists, found none")
        rows: list[int | pa.RecordBatch] = []
        for name, stat in files.items():
            place = places.get(name)
            if index is not None and place is not None and self._unchanged(index, place, stat):
                rows.append(place)
            elif (row := self._row(name, stat, index, place, known)) is not None:
                rows.append(row)
        if not rows:
            raise ShardError(f"{self.folder}: expected samples, got none that can be read; {self._damage[:1]}")
        selection = select(index, rows, known.form, known.ignore)
        if selection.index is not index and not self._damage and not selection.index.damaged_shards():
            save_index(self.folder / INDEX, selection.index)
            if (saved := read_index(self.folder / INDEX)) is not None and saved.batch.equals(selection.index.batch):
                drop_old_index(self.folder)
                return Selection(saved, selection.rows)
        return selection

    def _index(self) -> Index | None:
        try:
            return read_index(self.folder / INDEX)
        except ShardError as error:
            self._name(str(error))
            return None

    def _known(self, index: Index | None, new: Sequence[str]) -> Known:
        """What is known of shards that the index does not list."""
        old = self.folder / OLD_INDEX
        if index is not None:
            known = Known(index.form, index.ignore, {})
        elif os.path.lexists(old) and not os.path.lexists(self.folder / INDEX):
            if not os.access(self.folder, os.W_OK):
                raise ShardError(
                    f"{old}: expected {INDEX}, got an index of an earlier version in a folder that cannot be written. "
                    f"Run `{COMMAND}{self.folder}` where it can"
                )
            known = self._old(old) or self._detected(new)
        else:
            known = self._detected(new)
        if known.sums.keys() >= set(new):
            return known
        try:
            return known._replace(sums=known_checksums(self.folder) | known.sums)
        except ShardError as error:
            self._name(str(error))
            return known

    def _old(self, path: Path) -> Known | None:
        try:
            return read_old_index(path)
        except ShardError as error:
            self._name(str(error))
            return None

    def _detected(self, names: Sequence[str]) -> Known:
        forms = (detect_format(self.folder / name) for name in islice(names, PROBED_SHARDS))
        return Known(next(filter(None, forms), "records"), (), {})

    def _unchanged(self, index: Index, place: int, stat: os.stat_result) -> bool:
        same = index.sizes[place] == stat.st_size and index.times[place] == stat.st_mtime_ns
        return bool(same) and self.verify == "quick"

    def _row(
        self, name: str, stat: os.stat_result, index: Index | None, place: int | None, known: Known
    ) -> pa.RecordBatch | None:
        """The new row of a shard, which has another time than in the index, or is not in it, or is to be verified.

        None if the shard is another than was indexed or imported.
        """
        path = self.folder / name
        shard = None if index is None or place is None else index.shard(place)
        if shard is not None and shard.size != stat.st_size:
            self._name(
                f"{path}: expected {shard.size} bytes as indexed, got {stat.st_size}; the shard was cut "
                f"or changed. Restore it, or delete {self.folder / INDEX} if the change is meant"
            )
            return None
        if index is not None and place is not None and self.verify == "quick":
            sha256 = checksum(path)
            row = index.touched(place, stat.st_mtime_ns)
        else:
            images = known.file == OLD_INDEX or self.verify == "full"
            contents = index_shard(path, known.form, known.ignore, images)
            sha256 = contents["sha256"]
            row = shard_row({"name": name, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, **contents})
        expected = shard.sha256 if shard is not None else known.sums.get(name, sha256)
        if sha256 != expected:
            self._name(
                f"{path}: content changed since it was indexed or imported (sha256 {expected[:12]} expected, "
                f"{sha256[:12]} got). Restore it, or delete {self.folder / known.file} (and {IMPORT_FILE} or "
                f"{SUMS_FILE}) if the change is meant"
            )
            return None
        return row

    def _name(self, damage: str) -> None:
        self._damage.append(damage)
        self._report(damage)


def select(index: Index | None, rows: Sequence[int | pa.RecordBatch], form: Format, ignore: Sequence[str]) -> Selection:
    """Shards as rows of the index that is there, if it holds all of them as they are; else as those of a new one."""
    places = [row for row in rows if isinstance(row, int)]
    if index is not None and len(places) == len(rows):
        return Selection(index, places if places != list(range(len(places))) else range(len(places)))
    batch = None if index is None else index.batch
    new = build_index((cast(Any, batch).slice(row, 1) if isinstance(row, int) else row for row in rows), form, ignore)
    return Selection(index if index is not None and new.batch.equals(batch) else new, range(len(rows)))


def read_old_index(path: Path) -> Known | None:
    """What is taken over of an `index.json`: all but its places of samples. None of the first two versions.

    Raises:
        ShardError: no regular file, or no index.
    """
    try:
        check_regular(path)
        old = TypeAdapter(_OldIndex).validate_json(path.read_bytes())
    except ValueError as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise ShardError(
            f"{path}: expected an index of an earlier version, got another file ({why!s:.200}). Delete it: {INDEX} "
            f"is made from the shards"
        ) from None
    if old["version"] < 3:
        return None
    return Known(old["format"], old["ignore"], {s["name"]: s["sha256"] for s in old["shards"]}, OLD_INDEX)


def drop_old_index(folder: Path) -> None:
    """Remove an `index.json` that INDEX stands in for now."""
    if (folder / INDEX).exists():
        with contextlib.suppress(OSError):
            (folder / OLD_INDEX).unlink()


class _OldShard(TypedDict):
    name: str
    sha256: NotRequired[str]


class _OldIndex(TypedDict):
    version: int
    format: NotRequired[Format]
    ignore: NotRequired[list[str]]
    shards: list[_OldShard]


def known_checksums(folder: Path) -> dict[str, str]:
    """The sha256 of files below `folder`, by name, as an import or a published dataset noted them there or above.

    Raises:
        ShardError: the file that holds them is damaged.
    """
    checksums: dict[str, str] = {}
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
                checksums |= {n.removeprefix(prefix): sha256 for n, sha256 in sums.items() if n.startswith(prefix)}
    return checksums


def _imported(text: str) -> Mapping[str, str]:
    value = json.loads(text)
    if not isinstance(value, dict) or "files" not in value:
        return {}
    return TypeAdapter(dict[str, str]).validate_python(value["files"])


def _sums(text: str) -> Mapping[str, str]:
    """Lines of `sha256sum`."""
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return {name.removeprefix("*"): sha256 for sha256, name in lines}
