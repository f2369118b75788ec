"""Shards behind URLs, read by way of the local cache."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import webdataset
from filelock import FileLock
from pydantic import TypeAdapter, ValidationError

from dress.base.files import write_json
from dress.data.cache import ChangedShardError, RemoteFile, ShardCache, is_remote
from dress.data.index import Entry, detect_format, index_shard
from dress.data.index_file import INDEX, MEND, Index, ShardError, build_index, read_index, save_index, shard_row
from dress.data.opening import COMMAND, Selection, Verify, select
from dress.data.shards import Damage, Shards

LOOKS = 16
"""Shards whose size and tag are asked for at once."""
MAKE = f"Run `{COMMAND}FOLDER` where the shards are, and upload {INDEX} beside them"


class RemoteShards(Shards):
    """Shards behind `http(s)://`, `s3://`, `hf://` … (fsspec), read by way of a bounded local cache.

    At the start every shard's size and tag (ETag, or time of change) are asked for. A tag that is not
    the one seen before means that the shard may be another one: it is fetched and its checksum compared.

    Args:
        url: a folder with an `index.arrow`, or its shards in brace notation
            (`https://host/shard-{000000..000009}.tar`), which are then fetched once and indexed.
        cache: where fetched shards and their index are kept.
        window: shards that are shuffled together: all of them must fit into the cache.
        verify: `full` fetches every shard before training and compares its checksum.

    Raises:
        ShardError: a shard is missing or another one than in the index.
        ValueError: the cache is too small for the window.
    """

    def __init__(
        self, url: str, cache: ShardCache, window: int, on_damage: Damage = "stop", verify: Verify = "quick"
    ) -> None:
        self._cache, self._window = cache, window
        self._listed = "{" in url or url.endswith(".tar") or url.startswith("pipe:")
        self._tags_file = cache.beside(url, ".tags.json")
        self._changed: dict[int, str] = {}
        self._url = url if self._listed else url.rstrip("/")
        super().__init__(self._url, on_damage, verify)

    def window_bytes(self) -> int:
        """What the largest window takes."""
        sizes: list[int] = sorted(self._index.sizes[list(self._places)].tolist(), reverse=True)
        return sum(sizes[: self._window])

    def _open(self) -> Selection:
        self.folder = self._url
        index = self._first_pass() if self._listed else self._uploaded()
        selection = self._checked(index)
        self._cache.check_window(selection.index.sizes[list(selection.rows)].tolist(), self._window)
        return selection

    def _uploaded(self) -> Index:
        """The index beside the shards: fetched, unless the copy in the cache is the one that is there.

        Raises:
            ShardError: there is none that this version reads.
        """
        url = self._place(INDEX)
        remote = self._cache.look(url)
        if remote.missing:
            raise ShardError(f"{url}: expected the index of these shards, found none. {MAKE}")
        same = remote.tag is not None and read_tags(self._tags_file).get(INDEX) == remote.tag
        index = _cached_index(self._cache.fetch(url, remote.size)) if same else None
        if index is None:
            path = self._cache.fetch(url, remote.size, anew=True)
            try:
                index = read_index(path)
            except ShardError as error:
                raise ShardError(str(error).replace(str(path), url).replace(MEND, MAKE)) from None
        if index is None:
            raise ShardError(f"{url}: expected its copy in {self._cache.folder}, found none")
        for shard in index.shards:
            if not _is_below(shard.name):
                raise ShardError(f"{url}: expected names of shards below it, got {shard.name!r:.80}. {MAKE}")
        if not same and remote.tag is not None:
            update_json(self._tags_file, {INDEX: remote.tag})
        return index

    def _first_pass(self) -> Index:
        """Fetch and index every shard that the cache holds no index of; the index of all of them is kept, too."""
        urls = list(webdataset.shardlists.expand_urls(self.folder))
        file = self._cache.beside(self.folder, ".index.arrow")
        if (index := _cached_index(file, urls)) is None:
            parts = [self._indexed(url) for url in urls]
            index = build_index((part.batch for part in parts), parts[0].form, ())
            save_index(file, index)
        return _cached_index(file, urls) or index

    def _indexed(self, url: str) -> Index:
        file = self._cache.beside(url, ".shard.arrow")
        if (index := _cached_index(file, [url])) is None:
            tag = self._cache.look(url).tag
            path = self._cache.fetch(url)
            form = detect_format(path) or "records"
            size, contents = path.stat().st_size, index_shard(path, form)
            row = shard_row({"name": url, "size": size, "mtime_ns": 0, "tag": tag, **contents})
            index = build_index([row], form, ())
            save_index(file, index)
        return index

    def _checked(self, index: Index) -> Selection:
        """Those that are what the index says, by size and tag, and by checksum where the tag is new."""
        tags_before = read_tags(self._tags_file)
        with ThreadPoolExecutor(LOOKS) as pool:
            files = list(pool.map(self._cache.look, [self._place(shard.name) for shard in index.shards]))
        rows: list[int | pa.RecordBatch] = []
        tags = {}
        for number, (shard, file) in enumerate(zip(index.shards, files, strict=True)):
            before = tags_before.get(shard.name) or shard.tag
            changed = None not in (before, file.tag) and before != file.tag
            if (row := self._compared(index, number, file, changed)) is not None:
                rows.append(row)
                if file.tag is not None and tags_before.get(shard.name) != file.tag:
                    tags[shard.name] = file.tag
        if tags:
            update_json(self._tags_file, tags)
        if not rows:
            raise ShardError(f"{self.folder}: expected samples, got none that can be read; {self.damage[:1]}")
        return select(index, rows, index.form, index.ignore)

    def _compared(self, index: Index, number: int, file: RemoteFile, changed: bool) -> int | pa.RecordBatch | None:
        """A shard's row in the index, or with `verify=full` a new one; None if it is another shard."""
        shard = index.shard(number)
        url = self._place(shard.name)
        if file.missing or (file.size is not None and file.size != shard.size):
            actual = "found none" if file.missing else f"got {file.size}"
            self._damaged(f"{url}: expected {shard.size} bytes as in its index, {actual}")
            return None
        if not changed and self.verify == "quick":
            return number
        try:
            path = self._cache.fetch(url, shard.size, shard.sha256, anew=changed, verify=True)
        except ChangedShardError as error:
            self._damaged(str(error))
            return None
        if self.verify == "quick":
            return number
        contents = index_shard(path, index.form, index.ignore, images=True)
        about = Entry(name=shard.name, size=shard.size, mtime_ns=shard.mtime_ns, tag=shard.tag, **contents)
        return shard_row(about)

    def _place(self, name: str) -> str:
        if self._listed:
            return name
        return f"{self.folder}/{quote(name) if self.folder.startswith(('http://', 'https://')) else name}"

    def _path(self, shard: int) -> Path:
        """Fetched if it is not in the cache.

        Raises:
            ChangedShardError: it is another one than was indexed.
            FetchError: it cannot be fetched.
        """
        if shard in self._changed:
            raise ChangedShardError(self._changed[shard])
        indexed = self._index.shard(self._places[shard])
        try:
            return self._cache.fetch(self._place(indexed.name), indexed.size, indexed.sha256)
        except ChangedShardError as error:
            self._changed[shard] = str(error)  # its other samples do not fetch it again
            raise

    def _open_files(self) -> int:
        return self._window  # an open file keeps its space in the cache, evicted or not


def _cached_index(file: Path, urls: list[str] | None = None) -> Index | None:
    """The index in the cache, of these shards; None if it is damaged, of others, or not there."""
    try:
        index = read_index(file)
    except ShardError:
        return None
    return index if index is None or urls in (None, index.names.to_pylist()) else None


def _is_below(name: str) -> bool:
    parts = name.split("/")
    return bool(name) and ".." not in parts and "" not in parts and "://" not in name and "\\" not in name


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


def open_shards(
    place: str | Path, *, on_damage: Damage = "stop", verify: Verify = "quick",
    window: int = 16, cache: ShardCache | None = None,
) -> Shards:  # fmt: skip
    """Shards by path or URL; see `Shards` and `RemoteShards`."""
    if not is_remote(str(place)):
        return Shards(place, on_damage, verify)
    return RemoteShards(str(place), cache or ShardCache(), window, on_damage, verify)
