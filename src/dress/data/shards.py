"""Shards: plain webdataset tar files, the bytes that webdataset's own writer gives, read by index.

`write_shards` makes them, `Shards` reads them. An index (`index.json` beside the tars) holds offsets,
sizes and a checksum per shard, so that any sample is one `pread` away and a damaged shard is found
before training starts. Decoding is an explicit allow-list (`data.index`). webdataset's own `.decode()`
would unpickle; we never call it (RELIABILITY §1.1). The library is imported only where it does the work: it loads
torch, 650 MB that an import's worker processes have no use for.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from pydantic import ValidationError

from dress.base.files import image_extension
from dress.data.cache import ChangedShardError
from dress.data.images import MAX_ASPECT, open_image
from dress.data.index import FEATURES, IMAGE_EXTENSIONS, Format, check_regular, detect_format, index_shard
from dress.data.index_file import (
    IMPORT_FILE,
    INDEX,
    INDEX_VERSION,
    SUMS_FILE,
    Entry,
    ShardError,
    known_checksums,
    read_index,
    write_index,
)
from dress.record import ImageAnnotation, ImageRef, Record, RecordError, describe

if TYPE_CHECKING:
    from torch import Tensor

OPEN_FILES = 128
"""Shards of a dataset that a process keeps open."""
PROBED_SHARDS = 3
"""In which a sample is looked for that tells records from captions."""

Sample = tuple[Record, bytes | None]
Damage = Literal["stop", "skip"]
Verify = Literal["quick", "full"]

__all__ = ["INDEX", "Damage", "Sample", "ShardError", "Shards", "Verify", "write_shards"]


def write_shards(
    folder: Path, samples: Iterable[Sample], per_shard: int = 1000, start: int = 0,
    features: Mapping[str, bytes] | None = None,
) -> int:  # fmt: skip
    """Write samples to `<folder>/shard-NNNNNN.tar`; returns how many.

    A shard appears under its name only when it is whole (written aside, synced, renamed), and equal
    samples give equal bytes. `start` is the number of the first shard; `features` the stored vision features
    (safetensors) of a record, by its key.

    Raises:
        OSError: no space left, or the folder cannot be written; finished shards stay.
    """

    def members(sample: Sample) -> dict[str, Any]:
        return as_members(*sample, (features or {}).get(sample[0].key))

    folder.mkdir(parents=True, exist_ok=True)
    count, batch = 0, []
    for sample in samples:
        batch.append(sample)
        if len(batch) == per_shard:
            write_shard(folder / f"shard-{start + count // per_shard:06d}.tar", map(members, batch))
            count += len(batch)
            batch = []
    if batch:
        write_shard(folder / f"shard-{start + count // per_shard:06d}.tar", map(members, batch))
        count += len(batch)
    return count


def as_members(record: Record, image: bytes | None, features: bytes | None = None) -> dict[str, Any]:
    """A sample as webdataset has it: `{"__key__": …, extension: bytes}`."""
    found: dict[str, Any] = {"__key__": record.key, "json": record.dump()}
    if image is not None:
        found[image_extension(image)] = image
    if features is not None:
        found[FEATURES] = features
    return found


def write_shard(path: Path, samples: Iterable[Mapping[str, Any]]) -> None:
    """One shard, a sample at a time (see `as_members`); equal samples give equal bytes."""
    aside = path.with_suffix(".tar.partial")
    try:
        with aside.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w|") as tar:
                for sample in samples:
                    for extension in sorted(sample.keys() - {"__key__"}):
                        _add(tar, f"{sample['__key__']}.{extension}", sample[extension])
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
        verify: `quick` compares size and time of change with the index, `full` all that the index says of a shard
            (its checksum and where its samples lie), and each image with the checksum in its record.

    Without an index one is made: records are told from captions, and checksums of an import or of a published
    dataset (`import.json`, `SHA256SUMS`) are compared.

    Raises:
        FileNotFoundError: no such folder or no shard in it.
        ShardError: a shard is missing, cut, changed since it was indexed, or holds what we do not read.
    """

    def __init__(self, folder: str | Path, on_damage: Damage = "stop", verify: Verify = "quick") -> None:
        self.folder: Any = Path(folder)
        self.on_damage, self.verify = on_damage, verify
        self.damage: list[str] = []
        """`shard: member: reason` of all that was skipped when the shards were opened."""
        self.skipped: list[str] = []
        """`shard: key: reason` of the records that `readable` passed over."""
        self.max_aspect = MAX_ASPECT
        """Longer side ÷ shorter side of an image that `readable` does not pass over."""
        self.form: Format = "records"
        self._ignore: Collection[str] = ()
        self._repeated: set[str] = set()  # keys of captions that stand in several shards
        self._files: dict[int, _File] = {}
        self._own = threading.local()
        self._entries = self._open()
        self._names = [str(self.folder / entry["name"]) for entry in self._entries]
        for name, entry in zip(self._names, self._entries, strict=True):
            for member, reason in entry["problems"]:
                self._damaged(f"{name}: {member}: {reason}")
        self._set_repeated_keys_aside()
        self.lengths = [len(entry["samples"]) for entry in self._entries]
        self._where = [(s, i) for s, length in enumerate(self.lengths) for i in range(length)]
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

    def readable(self, indices: Iterable[int]) -> Iterator[Sample]:
        """Those of the samples that are records, with images that decode; the others go to `skipped`.

        Raises:
            RecordError: on_damage is stop, and one is no record.
        """
        for index in indices:
            try:
                record, image = self[index]
                if image is not None and self.on_damage == "skip":
                    open_image(image, self.where(index), self.max_aspect)
                yield record, image
            except (RecordError, ChangedShardError) as error:
                if self.on_damage == "stop":
                    raise RecordError(f"{error}. data.on_damage=skip goes on without it") from None
                if str(error) not in self.skipped:
                    self.skipped.append(str(error))

    def record(self, index: int) -> Record:
        """The record alone.

        Raises:
            RecordError: the JSON is no valid record, or a caption is missing.
        """
        key, members, shard = self._locate(index)
        if self.form == "captions":
            return self._captioned(key, members, shard)
        where = f"{self._names[shard]}: {key}"
        record = Record.parse(self._pread(shard, *members["json"]), where)
        if record.key != key.rpartition("/")[2]:
            raise RecordError(f"{where}: key: expected the member's name, got {record.key!r:.80}")
        return record

    def image(self, index: int) -> bytes | None:
        """The image's bytes, undecoded; None for text-only records."""
        _, members, shard = self._locate(index)
        extension = next((ext for ext in IMAGE_EXTENSIONS if ext in members), None)
        return self._pread(shard, *members[extension]) if extension else None

    def members(self, index: int) -> dict[str, bytes]:
        """All files of a sample by extension, as they are; the record's JSON where the shard has captions."""
        _, members, shard = self._locate(index)
        found = {name: self._pread(shard, *place) for name, place in members.items() if name != "txt"}
        return found | {"json": self.record(index).dump()} if self.form == "captions" else found

    def features(self, index: int) -> Tensor | None:
        """The stored vision features [V, D_v], where the shard holds them; bf16 and fp32 without a copy.

        Raises:
            RecordError: they are damaged.
        """
        from dress.data.features import FeatureError, decode

        _, members, shard = self._locate(index)
        if FEATURES not in members:
            return None
        offset, size = members[FEATURES]
        data = np.empty(size, np.uint8)
        self._check(shard, offset, size, os.preadv(self._file(shard), [data.data], offset))
        try:
            return decode(data)
        except FeatureError as error:
            raise RecordError(f"{self.where(index)}: {error}") from None

    def features_file(self, index: int) -> tuple[str, bytes | None]:
        """A sample's key and its stored features as they lie in the shard."""
        key, members, shard = self._locate(index)
        return key, self._pread(shard, *members[FEATURES]) if FEATURES in members else None

    def check_features(self, encoder: Mapping[str, str]) -> None:
        """Refuse to train on features that another encoder made, or on none.

        Args:
            encoder: `VisionEncoder.facts` of the run's encoder.

        Raises:
            FeatureError: names the shard, expected and got.
        """
        from dress.data.features import check_encoder

        for name, entry in zip(self._names, self._entries, strict=True):
            held = sum(FEATURES in members for _, members in entry["samples"])
            pictured = sum(any(ext in members for ext in IMAGE_EXTENSIONS) for _, members in entry["samples"])
            if held or pictured:
                check_encoder(entry["features"], encoder, name)

    def by_file(self) -> Iterator[tuple[str, range]]:
        """Each shard's name and the indices of its samples."""
        start = 0
        for entry, length in zip(self._entries, self.lengths, strict=True):
            yield entry["name"], range(start, start + length)
            start += length

    def text_size(self, index: int) -> int:
        """Bytes of a sample's JSON or caption."""
        _, members, _ = self._locate(index)
        return max(size for name, (_, size) in members.items() if name in ("json", "txt"))

    def where(self, index: int) -> str:
        """`shard.tar: key` of a sample, to name it in an error."""
        key, _, shard = self._locate(index)
        return f"{self._names[shard]}: {key}"

    @property
    def fingerprint(self) -> str:
        """Equal for equal shards in equal order."""
        text = "\n".join(f"{entry['name']} {entry['sha256']}" for entry in self._entries)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_files", "_own")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._files, self._own = {}, threading.local()

    def _locate(self, index: int) -> tuple[str, dict[str, tuple[int, int]], int]:
        shard, position = self._where[index]
        key, members = self._entries[shard]["samples"][position]
        return key, members, shard

    def _pread(self, shard: int, offset: int, size: int) -> bytes:
        data = os.pread(self._file(shard), size, offset)
        self._check(shard, offset, size, len(data))
        return data

    def _file(self, shard: int) -> int:
        """The descriptor of a shard; it stays open as long as this thread does not ask for another."""
        file = self._files.get(shard)
        if file is None:
            while len(self._files) >= self._open_files():
                self._files.pop(next(iter(list(self._files))), None)
            file = self._files[shard] = _File(self._path(shard))
        self._own.file = file
        return file.descriptor

    def _check(self, shard: int, offset: int, size: int, got: int) -> None:
        if got != size:
            raise RecordError(
                f"{self._names[shard]}: expected {size} bytes at {offset}, got {got}: the shard was cut while in use"
            )

    def _path(self, shard: int) -> Path:
        return Path(self.folder / self._entries[shard]["name"])

    def _open_files(self) -> int:
        return OPEN_FILES

    def _captioned(self, key: str, members: dict[str, tuple[int, int]], shard: int) -> Record:
        where = f"{self._names[shard]}: {key}"
        try:
            if "txt" in members:
                caption = self._pread(shard, *members["txt"]).decode("utf-8")
            else:
                caption = json.loads(self._pread(shard, *members["json"]))["caption"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise RecordError(f"{where}: expected a caption in .txt or in .json as caption ({error!r:.200})") from None
        if not isinstance(caption, str) or not caption.strip():
            raise RecordError(f"{where}: expected a caption, got {caption!r:.80}")
        plain = re.sub(r"[/.]", "-", key).lstrip("-")
        if key in self._repeated:
            plain = f"{PurePosixPath(self._entries[shard]['name']).stem}-{plain}".replace(".", "-")
        try:
            return Record(
                key=plain,
                source="webdataset",
                image=ImageRef(id=key),
                annotation=ImageAnnotation(captions=[caption]),
            )
        except ValidationError as error:
            raise RecordError(f"{where}: {describe(error)}") from None

    def _damaged(self, what: str) -> None:
        if self.on_damage == "stop":
            raise ShardError(f"{what}. data.on_damage=skip goes on without it")
        self.damage.append(what)

    # --- the index ---

    def _open(self) -> list[Entry]:
        paths = {path.relative_to(self.folder).as_posix(): path for path in sorted(self.folder.glob("**/*.tar"))}
        if not paths:
            raise FileNotFoundError(f"{self.folder}: expected shards (*.tar), found none")
        for path in paths.values():
            check_shard(path)
        try:
            index = read_index(self.folder / INDEX)
        except ShardError as error:
            self._damaged(str(error))
            index = None
        if index is not None:
            self.form, self._ignore = index["format"], index["ignore"]
        else:
            self.form = next(filter(None, map(detect_format, islice(paths.values(), PROBED_SHARDS))), "records")
        known = {entry["name"]: entry for entry in index["shards"]} if index is not None else {}
        before = {name: entry["mtime_ns"] for name, entry in known.items()}
        for name in known.keys() - paths.keys():
            self._damaged(f"{self.folder / name}: expected this shard, which {self.folder / INDEX} lists, found none")
        sums = {name: entry["sha256"] for name, entry in known.items()}
        if index is not None and index["version"] != INDEX_VERSION:
            known, before = {}, {}  # nothing says that it was not changed: made anew, and compared by checksum
        if paths.keys() - known.keys():
            sums = self._checksums() | sums
        entries = [entry for name, path in paths.items() if (entry := self._entry(name, path, known.get(name), sums))]
        whole = not self.damage and not any(entry["problems"] for entry in entries)
        if whole and {entry["name"]: entry["mtime_ns"] for entry in entries} != before:
            write_index(self.folder / INDEX, entries, self.form, self._ignore)
        return entries

    def _checksums(self) -> dict[str, str]:
        try:
            return known_checksums(self.folder)
        except ShardError as error:
            self._damaged(str(error))
            return {}

    def _entry(self, name: str, path: Path, entry: Entry | None, sums: Mapping[str, str]) -> Entry | None:
        """The index entry of a shard, checked or made; None if the shard is another than was indexed or imported."""
        stat = path.stat()
        if entry is not None and entry["size"] != stat.st_size:
            self._damaged(
                f"{path}: expected {entry['size']} bytes as indexed, got {stat.st_size}; the shard was cut "
                f"or changed. Restore it, or delete {self.folder / INDEX} if the change is meant"
            )
            return None
        if entry is not None and entry["mtime_ns"] == stat.st_mtime_ns and self.verify == "quick":
            return entry
        if entry is not None and self.verify == "quick":
            with path.open("rb") as file:
                got = hashlib.file_digest(file, "sha256").hexdigest()
        else:
            place = {"name": name, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
            images = self.verify == "full"
            entry = cast(Entry, {**place, **index_shard(path, self.form, self._ignore, images)})
            got = entry["sha256"]
        if got != sums.get(name, got):
            self._damaged(
                f"{path}: content changed since it was indexed or imported (sha256 {sums[name][:12]} expected, "
                f"{got[:12]} got). Restore it, or delete {self.folder / INDEX} (and {IMPORT_FILE} or {SUMS_FILE}) if "
                f"the change is meant"
            )
            return None
        entry["mtime_ns"] = stat.st_mtime_ns
        return entry

    def _set_repeated_keys_aside(self) -> None:
        """A key stands for one record. Captions of others are often numbered anew in every shard: they keep theirs."""
        seen: dict[str, str] = {}
        for name, entry in zip(self._names, self._entries, strict=True):
            repeated = {key for key, _ in entry["samples"] if key in seen}
            if repeated and self.form == "captions":
                self._repeated |= repeated
            elif repeated:
                for key in sorted(repeated):
                    self._damaged(f"{name}: {key}: expected each key once, got it in {seen[key]} too")
                entry["samples"] = [sample for sample in entry["samples"] if sample[0] not in repeated]
            seen.update((key, name) for key, _ in entry["samples"])


def check_shard(path: Path) -> None:
    """Raises ShardError: no regular file."""
    try:
        check_regular(path)
    except ValueError as error:
        raise ShardError(str(error)) from None


class _File:
    """An open file, closed when nobody reads from it any more: threads share it, and one of them may evict it."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)
