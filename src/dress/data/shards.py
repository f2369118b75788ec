"""Shards: plain webdataset tar files, the bytes that webdataset's own writer gives, read by index.

`write_shards` makes them, `Shards` reads them. An index (`index.json` beside the tars) holds offsets,
sizes and a checksum per shard, so that any sample is one `pread` away and a damaged shard is found
before training starts. Decoding is an explicit allow-list (`data.index`). webdataset's own `.decode()`
would unpickle; we never call it (RELIABILITY §1.1). The library is imported only where it does the work: it loads
torch, 650 MB that an import's worker processes have no use for.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from dress.data.cache import ShardCache, is_remote
from dress.data.index import FEATURES, IMAGE_EXTENSIONS, Format, index_shard
from dress.files import write_json
from dress.record import ImageAnnotation, ImageRef, Record, RecordError

INDEX = "index.json"
INDEX_VERSION = 2

Sample = tuple[Record, bytes | None]


Damage = Literal["stop", "skip"]
Verify = Literal["quick", "full"]


class ShardError(ValueError):
    """A shard that cannot be read whole; the message names the file, expected and got."""


def image_extension(data: bytes) -> str:
    """The file extension that the bytes' signature asks for."""
    if data.startswith(b"\x89PNG"):
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return "jpg"


def write_shards(folder: Path, samples: Iterable[Sample], per_shard: int = 1000, start: int = 0) -> int:
    """Write samples to `<folder>/shard-NNNNNN.tar`; returns how many.

    A shard appears under its name only when it is whole (written aside, synced, renamed), and equal
    samples give equal bytes. `start` is the number of the first shard.

    Raises:
        OSError: no space left, or the folder cannot be written; finished shards stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count, batch = 0, []
    for sample in samples:
        batch.append(sample)
        if len(batch) == per_shard:
            write_shard(folder / f"shard-{start + count // per_shard:06d}.tar", batch)
            count += len(batch)
            batch = []
    if batch:
        write_shard(folder / f"shard-{start + count // per_shard:06d}.tar", batch)
        count += len(batch)
    return count


def write_shard(path: Path, samples: Iterable[Sample]) -> None:
    """Write one shard, a sample at a time; see `write_shards`."""
    aside = path.with_suffix(".tar.partial")
    try:
        with aside.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w|") as tar:
                for record, image in samples:
                    members = {"json": record.dump()}
                    if image is not None:
                        members[image_extension(image)] = image
                    for extension in sorted(members):
                        _add(tar, f"{record.key}.{extension}", members[extension])
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        free = shutil.disk_usage(path.parent).free
        raise OSError(
            error.errno,
            f"cannot write {path} ({error.strerror}; {free / 1e6:.0f} MB free). Shards written so far "
            f"are whole; free some space and run the same command again",
        ) from error


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o444
    member.uname = member.gname = "bigdata"
    tar.addfile(member, io.BytesIO(data))


class Shards:
    """Random access to the samples of a folder of shards.

    Args:
        folder: holds `*.tar` (one level, or below it).
        on_damage: `stop` at the first thing that cannot be read, or `skip` it and name it in `damage`.
        verify: `quick` compares size and time of change with the index, `full` the checksum too.

    Raises:
        FileNotFoundError: no such folder or no shard in it.
        ShardError: a shard is missing, cut, changed since it was indexed, or holds what we do not read.
    """

    def __init__(self, folder: str | Path, on_damage: Damage = "stop", verify: Verify = "quick") -> None:
        self.folder: Any = Path(folder)
        self.on_damage, self.verify = on_damage, verify
        self.damage: list[str] = []
        """`shard: member: reason` of everything that was skipped."""
        self.form: Format = "records"
        self._ignore: Collection[str] = ()
        self._files: dict[int, int] = {}
        self._entries = self._open()
        for entry in self._entries:
            for member, reason in entry["problems"]:
                self._damaged(f"{self.folder / entry['name']}: {member}: {reason}")
        self.lengths = [len(entry["samples"]) for entry in self._entries]
        self._where = [(s, i) for s, entry in enumerate(self._entries) for i in range(len(entry["samples"]))]
        if not self._where:
            raise ShardError(f"{self.folder}: expected samples, got none that can be read; {self.damage[:1]}")

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, index: int) -> Sample:
        """The record and its image bytes (None for text-only records).

        Raises:
            RecordError: the JSON is no valid record.
        """
        return self.record(index), self.image(index)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def record(self, index: int) -> Record:
        """The record alone.

        Raises:
            RecordError: the JSON is no valid record, or a caption is missing.
        """
        key, members, shard = self._locate(index)
        if self.form == "captions":
            return self._captioned(key, members, shard)
        return Record.parse(self._pread(shard, *members["json"]), self.where(index))

    def image(self, index: int) -> bytes | None:
        """The image's bytes, undecoded; None for text-only records."""
        _, members, shard = self._locate(index)
        extension = next((ext for ext in IMAGE_EXTENSIONS if ext in members), None)
        return self._pread(shard, *members[extension]) if extension else None

    def features(self, index: int) -> bytes | None:
        """The frozen vision features' file (safetensors), where the shard holds one."""
        _, members, shard = self._locate(index)
        return self._pread(shard, *members[FEATURES]) if FEATURES in members else None

    def where(self, index: int) -> str:
        """`shard.tar: key` of a sample, to name it in an error."""
        key, _, shard = self._locate(index)
        return f"{self.folder / self._entries[shard]['name']}: {key}"

    @property
    def fingerprint(self) -> str:
        """Equal for equal shards in equal order."""
        text = "\n".join(f"{entry['name']} {entry['sha256']}" for entry in self._entries)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}

    def _locate(self, index: int) -> tuple[str, dict[str, tuple[int, int]], int]:
        shard, position = self._where[index]
        key, members = self._entries[shard]["samples"][position]
        return key, members, shard

    def _pread(self, shard: int, offset: int, size: int) -> bytes:
        if shard not in self._files:
            self._files[shard] = os.open(self.folder / self._entries[shard]["name"], os.O_RDONLY)
        return os.pread(self._files[shard], size, offset)

    def _captioned(self, key: str, members: dict[str, tuple[int, int]], shard: int) -> Record:
        where = f"{self.folder / self._entries[shard]['name']}: {key}"
        try:
            if "txt" in members:
                caption = self._pread(shard, *members["txt"]).decode("utf-8")
            else:
                caption = json.loads(self._pread(shard, *members["json"]))["caption"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise RecordError(f"{where}: expected a caption in .txt or in .json as caption ({error!r})") from None
        if not isinstance(caption, str) or not caption.strip():
            raise RecordError(f"{where}: expected a caption, got {caption!r:.80}")
        plain = key.replace("/", "-").lstrip("-")
        return Record(
            key=plain,
            source="webdataset",
            image=ImageRef(id=key),
            annotation=ImageAnnotation(captions=[caption.strip()]),
        )

    def _damaged(self, what: str) -> None:
        if self.on_damage == "stop":
            raise ShardError(f"{what}. data.on_damage=skip goes on without it")
        self.damage.append(what)

    # --- the index ---

    def _open(self) -> list[dict[str, Any]]:
        paths = {path.relative_to(self.folder).as_posix(): path for path in sorted(self.folder.glob("**/*.tar"))}
        if not paths:
            raise FileNotFoundError(f"{self.folder}: expected shards (*.tar), found none")
        index = read_index(self.folder / INDEX)
        self.form, self._ignore = index.get("format", "records"), index.get("ignore", ())
        known = {entry["name"]: entry for entry in index.get("shards", [])}
        for name in known.keys() - paths.keys():
            self._damaged(f"{self.folder / name}: expected this shard, which {self.folder / INDEX} lists, found none")
        entries = [entry for name, path in paths.items() if (entry := self._entry(name, path, known.get(name)))]
        whole = not self.damage and not any(entry["problems"] for entry in entries)
        if whole and [entry["name"] for entry in entries] != list(known):
            write_index(self.folder / INDEX, entries, self.form, self._ignore)
        return entries

    def _entry(self, name: str, path: Path, entry: dict[str, Any] | None) -> dict[str, Any] | None:
        stat = path.stat()
        if entry is None:
            fresh = index_shard(path, self.form, self._ignore)
            return {"name": name, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, **fresh}
        if entry["size"] != stat.st_size:
            self._damaged(
                f"{path}: expected {entry['size']} bytes as indexed, got {stat.st_size}; the shard was cut "
                f"or changed. Restore it, or delete {self.folder / INDEX} if the change is meant"
            )
            return None
        if entry["mtime_ns"] != stat.st_mtime_ns or self.verify == "full":
            with path.open("rb") as file:
                got = hashlib.file_digest(file, "sha256").hexdigest()
            if got != entry["sha256"]:
                self._damaged(
                    f"{path}: content changed since it was indexed (sha256 {entry['sha256'][:12]} expected, "
                    f"{got[:12]} got). Restore it, or delete {self.folder / INDEX} if the change is meant"
                )
                return None
        return entry


class RemoteShards(Shards):
    """Shards behind `http(s)://`, `s3://`, `hf://` … (fsspec), read by way of a bounded local cache.

    Args:
        url: a folder with an `index.json`, or its shards in brace notation
            (`https://host/shard-{000000..000009}.tar`), which are then fetched once and indexed.
        cache: where fetched shards are kept.
        window: shards that are shuffled together: all of them must fit into the cache.

    Raises:
        ShardError: a shard is missing or of another size than in the index.
        ValueError: the cache is too small for the window.
    """

    def __init__(self, url: str, cache: ShardCache, window: int, on_damage: Damage = "stop") -> None:
        self._url, self._cache, self._window = url, cache, window
        super().__init__(".", on_damage)

    def _open(self) -> list[dict[str, Any]]:
        if "{" in self._url or self._url.endswith(".tar"):
            self.folder = _Remote("")
            entries = self._first_pass()
        else:
            self.folder = _Remote(self._url.rstrip("/"))
            index = parse_index(self._cache.small_file(self.folder / INDEX), self.folder / INDEX)
            self.form, self._ignore = index["format"], index["ignore"]
            entries = [entry for entry in index["shards"] if self._there(entry)]
        self._cache.check_window([entry["size"] for entry in entries], self._window)
        return entries

    def _first_pass(self) -> list[dict[str, Any]]:
        """Fetch and index every shard that the cache holds no index of."""
        import webdataset

        entries: list[dict[str, Any]] = []
        for url in webdataset.shardlists.expand_urls(self._url):
            kept = self._cache.beside(url, ".index.json")
            known = read_index(kept).get("shards")
            if known is None:
                path = self._cache.fetch(url)
                entry = {"name": url, "size": path.stat().st_size, "mtime_ns": 0, **index_shard(path)}
                write_index(kept, [entry], "records", ())
                known = [entry]
            if self._there(known[0]):
                entries += known
        return entries

    def _there(self, entry: dict[str, Any]) -> bool:
        url = self.folder / entry["name"]
        size = self._cache.size(url)
        if size is not None and size != entry["size"]:
            found = "found none" if size < 0 else f"got {size}"
            self._damaged(f"{url}: expected {entry['size']} bytes as in its index, {found}")
            return False
        return True

    def _pread(self, shard: int, offset: int, size: int) -> bytes:
        if shard not in self._files:
            entry = self._entries[shard]
            path = self._cache.fetch(self.folder / entry["name"], entry["size"], entry["sha256"])
            while len(self._files) >= self._window:  # an open file keeps its space, evicted or not
                os.close(self._files.pop(next(iter(self._files))))
            self._files[shard] = os.open(path, os.O_RDONLY)
        return os.pread(self._files[shard], size, offset)


class _Remote(str):
    """A URL that is joined like a path."""

    def __truediv__(self, name: str) -> _Remote:
        return _Remote(f"{self}/{name}" if self else name)


def read_index(path: Path) -> dict[str, Any]:
    """An index, or nothing where there is none that this version reads."""
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return index if index.get("version") == INDEX_VERSION else {}


def parse_index(data: bytes, where: str) -> dict[str, Any]:
    """The index of remote shards.

    Raises:
        ShardError: not one that this version reads.
    """
    try:
        index = json.loads(data)
        if index["version"] == INDEX_VERSION:
            return dict(index)
    except (ValueError, KeyError, TypeError):
        pass
    raise ShardError(
        f"{where}: expected an index of version {INDEX_VERSION}. Run `python src/prepare.py task=index path=FOLDER` "
        f"where the shards are, and upload index.json beside them"
    )


def write_index(path: Path, entries: list[dict[str, Any]], form: Format, ignore: Collection[str]) -> None:
    """Write an index; a read-only folder is indexed anew each time."""
    with contextlib.suppress(OSError):
        index = {"version": INDEX_VERSION, "format": form, "ignore": list(ignore), "shards": entries}
        write_json(path, index)


def open_shards(
    place: str | Path, *, on_damage: Damage = "stop", verify: Verify = "quick",
    window: int = 16, cache: ShardCache | None = None,
) -> Shards:  # fmt: skip
    """Shards by path or URL; see `Shards` and `RemoteShards`."""
    if not is_remote(str(place)):
        return Shards(place, on_damage, verify)
    return RemoteShards(str(place), cache or ShardCache(), window, on_damage)
