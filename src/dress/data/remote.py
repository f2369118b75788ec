"""Shards behind URLs, read by way of the local cache."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import webdataset

from dress.data.cache import ChangedShardError, Found, ShardCache, is_remote
from dress.data.index import Format, detect_format, index_shard
from dress.data.index_file import (
    INDEX,
    INDEX_VERSION,
    Entry,
    ShardError,
    parse_index,
    read_index,
    read_tags,
    update_json,
    write_index,
)
from dress.data.shards import Damage, Shards, Verify

LOOKS = 16
"""Shards whose size and tag are asked for at once."""


class RemoteShards(Shards):
    """Shards behind `http(s)://`, `s3://`, `hf://` … (fsspec), read by way of a bounded local cache.

    At the start every shard's size and tag (ETag, or time of change) are asked for. A tag that is not
    the one seen before means that the shard may be another one: it is fetched and its checksum compared.

    Args:
        url: a folder with an `index.json`, or its shards in brace notation
            (`https://host/shard-{000000..000009}.tar`), which are then fetched once and indexed.
        cache: where fetched shards are kept.
        window: shards that are shuffled together: all of them must fit into the cache.
        verify: `full` fetches every shard before training and compares its checksum.

    Raises:
        ShardError: a shard is missing or another one than in the index.
        ValueError: the cache is too small for the window.
    """

    def __init__(
        self, url: str, cache: ShardCache, window: int, on_damage: Damage = "stop", verify: Verify = "quick"
    ) -> None:
        self._url, self._cache, self._window = url, cache, window
        self._changed: dict[int, str] = {}
        super().__init__(".", on_damage, verify)

    def window_bytes(self) -> int:
        """What the largest window takes."""
        return sum(sorted((entry["size"] for entry in self._entries), reverse=True)[: self._window])

    def _open(self) -> list[Entry]:
        braces = "{" in self._url or self._url.endswith(".tar") or self._url.startswith("pipe:")
        self.folder = _Remote("" if braces else self._url.rstrip("/"))
        if braces:
            listed = self._first_pass()
        else:
            index = parse_index(self._cache.small_file(self.folder / INDEX), self.folder / INDEX)
            self.form, self._ignore, listed = index["format"], index["ignore"], index["shards"]
        entries = self._checked(listed)
        self._cache.check_window([entry["size"] for entry in entries], self._window)
        return entries

    def _first_pass(self) -> list[Entry]:
        """Fetch and index every shard that the cache holds no index of."""
        entries: list[Entry] = []
        forms: list[Format] = []
        for url in webdataset.shardlists.expand_urls(self._url):
            kept = self._cache.beside(url, ".index.json")
            known = self._kept(kept, url)
            if known is None:
                tag = self._cache.look(url).tag
                path = self._cache.fetch(url)
                form = detect_format(path) or "records"
                place = {"name": url, "size": path.stat().st_size, "mtime_ns": 0, "tag": tag}
                known = form, cast(Entry, {**place, **index_shard(path, form)})
                write_index(kept, [known[1]], form, ())
            forms.append(known[0])
            entries.append(known[1])
        self.form = forms[0]
        return entries

    def _kept(self, file: Path, url: str) -> tuple[Format, Entry] | None:
        """The format and index that were kept of a shard; None if they must be made anew."""
        try:
            index = read_index(file)
        except ShardError:
            return None
        if index is None or index["version"] != INDEX_VERSION or [e["name"] for e in index["shards"]] != [url]:
            return None
        return index["format"], index["shards"][0]

    def _checked(self, entries: Sequence[Entry]) -> list[Entry]:
        """Those that are what the index says, by size and tag, and by checksum where the tag is new."""
        file = self._cache.beside(self._url, ".tags.json")
        known = read_tags(file)
        with ThreadPoolExecutor(LOOKS) as pool:
            found = list(pool.map(self._cache.look, [self.folder / entry["name"] for entry in entries]))
        good, seen = [], {}
        for entry, now in zip(entries, found, strict=True):
            before = known.get(entry["name"]) or entry.get("tag")
            if self._there(entry, now, changed=None not in (before, now.tag) and before != now.tag):
                good.append(entry)
                if now.tag is not None and known.get(entry["name"]) != now.tag:
                    seen[entry["name"]] = now.tag
        if seen:
            update_json(file, seen)
        return good

    def _there(self, entry: Entry, now: Found, changed: bool) -> bool:
        url = self.folder / entry["name"]
        if now.missing or (now.size is not None and now.size != entry["size"]):
            got = "found none" if now.missing else f"got {now.size}"
            self._damaged(f"{url}: expected {entry['size']} bytes as in its index, {got}")
            return False
        if changed or self.verify == "full":
            try:
                path = self._cache.fetch(url, entry["size"], entry["sha256"], anew=changed, verify=True)
            except ChangedShardError as error:
                self._damaged(str(error))
                return False
            if self.verify == "full":  # where samples lie, and each image with the checksum in its record
                entry.update(cast(Entry, index_shard(path, self.form, self._ignore, images=True)))
        return True

    def _path(self, shard: int) -> Path:
        """Fetched if it is not in the cache.

        Raises:
            ChangedShardError: it is another one than was indexed.
            FetchError: it cannot be fetched.
        """
        if shard in self._changed:
            raise ChangedShardError(self._changed[shard])
        entry = self._entries[shard]
        try:
            return self._cache.fetch(self.folder / entry["name"], entry["size"], entry["sha256"])
        except ChangedShardError as error:
            self._changed[shard] = str(error)  # its other samples do not fetch it again
            raise

    def _open_files(self) -> int:
        return self._window  # an open file keeps its space in the cache, evicted or not


class _Remote(str):
    """A URL that is joined like a path."""

    def __truediv__(self, name: str) -> _Remote:
        return _Remote(f"{self}/{name}" if self else name)


def open_shards(
    place: str | Path, *, on_damage: Damage = "stop", verify: Verify = "quick",
    window: int = 16, cache: ShardCache | None = None,
) -> Shards:  # fmt: skip
    """Shards by path or URL; see `Shards` and `RemoteShards`."""
    if not is_remote(str(place)):
        return Shards(place, on_damage, verify)
    return RemoteShards(str(place), cache or ShardCache(), window, on_damage, verify)
