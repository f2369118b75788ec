"""Shards: plain webdataset tar files, written with webdataset's writer and read by index.

`write_shards` makes them, `Shards` reads them. An index (`index.json` beside the tars) holds offsets,
sizes and a checksum per shard, so that any sample is one `pread` away and a damaged shard is found
before training starts. Decoding is an explicit allow-list: a `.json` record and one image. webdataset's
own `.decode()` would unpickle; we never call it (RELIABILITY §1.1).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import webdataset

from dress.files import write_json
from dress.record import Record

IMAGE_EXTENSIONS = ("png", "jpg", "jpeg", "webp")
EXTENSIONS = ("json", *IMAGE_EXTENSIONS)
MAX_MEMBER_BYTES = 64 * 1024 * 1024
INDEX_VERSION = 1

Sample = tuple[Record, bytes | None]


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
            _write_shard(folder / f"shard-{start + count // per_shard:06d}.tar", batch)
            count += len(batch)
            batch = []
    if batch:
        _write_shard(folder / f"shard-{start + count // per_shard:06d}.tar", batch)
        count += len(batch)
    return count


def _write_shard(path: Path, batch: list[Sample]) -> None:
    aside = path.with_suffix(".tar.partial")
    try:
        with aside.open("wb") as file:
            writer = webdataset.TarWriter(file, encoder=False, mtime=0)
            for record, image in batch:
                sample: dict[str, Any] = {"__key__": record.key, "json": record.dump()}
                if image is not None:
                    sample[image_extension(image)] = image
                writer.write(sample)
            writer.close()
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


class Shards:
    """Random access to the samples of a folder of shards.

    Args:
        folder: holds `*.tar` (one level, or below it).

    Raises:
        FileNotFoundError: no such folder or no shard in it.
        ShardError: a shard is cut, changed since it was indexed, or holds what we do not read.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        paths = sorted(self.folder.glob("**/*.tar"))
        if not paths:
            raise FileNotFoundError(f"{self.folder}: expected shards (*.tar), found none")
        known = self._read_index()
        self._entries = [self._entry(path, known) for path in paths]
        if [entry["name"] for entry in self._entries] != list(known):
            self._write_index()
        self.lengths = [len(entry["samples"]) for entry in self._entries]
        self._where = [(s, i) for s, entry in enumerate(self._entries) for i in range(len(entry["samples"]))]
        self._files: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, index: int) -> Sample:
        """The record and its image bytes (None for text-only records).

        Raises:
            RecordError: the JSON is no valid record.
        """
        key, members, shard = self._locate(index)
        path = self.folder / self._entries[shard]["name"]
        record = Record.parse(self._pread(shard, *members["json"]), f"{path}: {key}")
        extension = next((ext for ext in IMAGE_EXTENSIONS if ext in members), None)
        return record, self._pread(shard, *members[extension]) if extension else None

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

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

    def _read_index(self) -> dict[str, dict[str, Any]]:
        try:
            index = json.loads((self.folder / "index.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return {entry["name"]: entry for entry in index["shards"]} if index.get("version") == INDEX_VERSION else {}

    def _write_index(self) -> None:
        with contextlib.suppress(OSError):  # a read-only folder is indexed anew each time
            write_json(self.folder / "index.json", {"version": INDEX_VERSION, "shards": self._entries})

    def _entry(self, path: Path, known: dict[str, dict[str, Any]]) -> dict[str, Any]:
        name, stat = path.relative_to(self.folder).as_posix(), path.stat()
        entry = known.get(name)
        if entry is None:
            return {"name": name, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, **_index_shard(path)}
        if entry["size"] != stat.st_size:
            raise ShardError(
                f"{path}: expected {entry['size']} bytes as indexed, got {stat.st_size}; the shard was cut "
                f"or changed. Restore it, or delete {self.folder / 'index.json'} if the change is meant"
            )
        if entry["mtime_ns"] != stat.st_mtime_ns:
            fresh = _index_shard(path)
            if fresh["sha256"] != entry["sha256"]:
                raise ShardError(
                    f"{path}: content changed since it was indexed (sha256 {entry['sha256'][:12]} expected, "
                    f"{fresh['sha256'][:12]} got). Restore it, or delete {self.folder / 'index.json'}"
                )
        return entry


def _index_shard(path: Path) -> dict[str, Any]:
    """One pass over a tar: where each sample's members lie, and the checksum of the whole file."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    size = path.stat().st_size
    end = 0
    try:
        with tarfile.open(path, mode="r:") as tar:
            for member in tar:
                end = member.offset_data + (member.size + 511) // 512 * 512
                _add_member(samples, member, path)
    except tarfile.ReadError as error:
        raise ShardError(f"{path}: expected a whole tar file, got one that is damaged ({error})") from None
    if end + 512 > size:
        raise ShardError(
            f"{path}: expected at least {end + 512} bytes (members and end mark), got {size}; the file was cut"
        )
    with path.open("rb") as file:
        file.seek(end)
        if file.read(512).strip(b"\0"):
            raise ShardError(f"{path}: damaged header at byte {end}; {len(samples)} samples stand before it")
        file.seek(0)
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    lonely = next((key for key, members in samples.items() if "json" not in members), None)
    if lonely is not None:
        raise ShardError(f"{path}: {lonely}: expected {lonely}.json beside its image, found none")
    return {"sha256": checksum, "samples": list(samples.items())}


def _add_member(samples: dict[str, dict[str, tuple[int, int]]], member: tarfile.TarInfo, path: Path) -> None:
    if member.isdir():
        return
    if not member.isreg():
        raise ShardError(f"{path}: {member.name}: expected a plain file, got a link or a device")
    key, _, extension = member.name.partition(".")
    if extension.lower() not in EXTENSIONS:
        raise ShardError(
            f"{path}: {member.name}: expected one of .{', .'.join(EXTENSIONS)}, got .{extension}; "
            f"other kinds of file are never decoded"
        )
    if member.size > MAX_MEMBER_BYTES:
        raise ShardError(f"{path}: {member.name}: expected at most {MAX_MEMBER_BYTES} bytes, got {member.size}")
    members = samples.setdefault(key, {})
    if extension.lower() in members:
        raise ShardError(f"{path}: {member.name}: the key occurs twice")
    members[extension.lower()] = (member.offset_data, member.size)
