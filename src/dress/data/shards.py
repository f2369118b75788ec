"""Shards: plain webdataset tar files, the bytes that webdataset's own writer gives, read by index.

`write_shards` makes them, `Shards` reads them. An index (`index.arrow` beside the tars) holds offsets, sizes and a
checksum per shard, so that any sample is one `pread` away and a damaged shard is found before training starts.
Decoding is an explicit allow-list (`data.index`): webdataset's own `.decode()` would unpickle, and is never called.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate, pairwise
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import ValidationError

from dress.base.files import image_extension
from dress.data.cache import ChangedShardError
from dress.data.images import MAX_ASPECT, open_image
from dress.data.index import FEATURES, IMAGE_EXTENSIONS, Places
from dress.data.index_file import ShardError
from dress.data.opening import Opening, Selection, Verify
from dress.record import ImageAnnotation, ImageRef, Record, RecordError, describe

if TYPE_CHECKING:
    from dress.data.features import StoredImage

OPEN_FILES = 128
"""Shards of a dataset that a process keeps open."""

Sample = tuple[Record, bytes | None]
"""A record and its image's bytes."""
Damage = Literal["stop", "skip"]


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
    members: dict[str, Any] = {"__key__": record.key, "json": record.dump()}
    if image is not None:
        members[image_extension(image)] = image
    if features is not None:
        members[FEATURES] = features
    return members


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
        FileNotFoundError: no shard in it.
        ShardError: a shard is missing, cut, changed since it was indexed, or holds what we do not read.
    """

    def __init__(self, folder: str | Path, on_damage: Damage = "stop", verify: Verify = "quick") -> None:
        self.folder = str(Path(folder))
        self.on_damage, self.verify = on_damage, verify
        self.damage: list[str] = []
        """`shard: member: reason` of all that was skipped when the shards were opened."""
        self.skipped: list[str] = []
        """`shard: key: reason` of the records that `readable` passed over."""
        self.max_aspect = MAX_ASPECT
        """Longer side ÷ shorter side of an image that `readable` does not pass over."""
        self._files: dict[int, _File] = {}
        selection = self._open()
        self._index, self._places = selection.index, selection.rows
        damaged = self._index.damaged_shards()
        for number, place in enumerate(self._places):
            for member, reason in self._index.shard(place).problems if place in damaged else ():
                self._damaged(f"{self._shard_name(number)}: {member}: {reason}")
        starts = self._index.starts.tolist()
        spans = [range(starts[place], starts[place + 1]) for place in self._places]
        self.lengths = [len(span) for span in spans]
        """Samples of each shard."""
        self._rows: range | np.ndarray
        if all(before.stop == span.start for before, span in pairwise(spans)):
            self._rows = range(spans[0].start, spans[-1].stop)
        else:
            self._rows = np.concatenate([np.arange(span.start, span.stop) for span in spans])
        self._starts = list(accumulate(self.lengths, initial=0))
        self._set_repeated_keys_aside()
        if not len(self):
            raise ShardError(f"{self.folder}: expected samples, got none that can be read; {self.damage[:1]}")

    def __len__(self) -> int:
        return len(self._rows)

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
        if self._index.form == "captions":
            return self._captioned(index)
        where = f"{self._shard_name(shard)}: {key}"
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
        files = {name: self._pread(shard, *place) for name, place in members.items() if name != "txt"}
        return files | {"json": self.record(index).dump()} if self._index.form == "captions" else files

    def features(self, index: int) -> StoredImage | None:
        """The stored vision features, where the shard holds them; bf16 and fp32 without a copy.

        Raises:
            RecordError: they are damaged.
        """
        from dress.data.features import FeatureError, decode_image

        _, members, shard = self._locate(index)
        if FEATURES not in members:
            return None
        offset, size = members[FEATURES]
        data, file = np.empty(size, np.uint8), self._file(shard)
        self._check(shard, offset, size, os.preadv(file.descriptor, [data.data], offset))
        try:
            return decode_image(data)
        except FeatureError as error:
            raise RecordError(f"{self.where(index)}: {error}") from None

    def features_file(self, index: int) -> tuple[str, bytes | None]:
        """A sample's key and its stored features as they lie in the shard."""
        key, members, shard = self._locate(index)
        return key, self._pread(shard, *members[FEATURES]) if FEATURES in members else None

    def check_features(self, encoder: Mapping[str, str]) -> int:
        """Refuse to train on features that another encoder made, or on none.

        Args:
            encoder: `VisionEncoder.facts` of the run's encoder.

        Returns:
            How many shards have pictures, all with its features.

        Raises:
            FeatureError: names the shard, expected and got.
        """
        from dress.data.features import check_encoder

        pictured = (self._column("image_at") > 0) | (self._column("features_at") > 0)
        checked = 0
        for number, (start, stop) in enumerate(pairwise(self._starts)):
            if pictured[start:stop].any():
                check_encoder(self._index.shard(self._places[number]).features, encoder, self._shard_name(number))
                checked += 1
        return checked

    def by_file(self) -> Iterator[tuple[str, range]]:
        """Each shard's name and the indices of its samples."""
        for place, (start, stop) in zip(self._places, pairwise(self._starts), strict=True):
            yield self._index.names[place].as_py(), range(start, stop)

    def longer_texts(self, size: int) -> list[int]:
        """The samples whose JSON or caption is longer than `size` bytes; known from the index."""
        indices: list[int] = np.flatnonzero(self._column("text_size") > size).tolist()
        return indices

    def keys(self) -> Iterator[str]:
        """Of all samples, in order, without what stands before them in their names; known from the index."""
        return (self._index.key(row).rpartition("/")[2] for row in self._rows)

    def where(self, index: int) -> str:
        """`shard.tar: key` of a sample, to name it in an error."""
        key, _, shard = self._locate(index)
        return f"{self._shard_name(shard)}: {key}"

    @property
    def fingerprint(self) -> str:
        """Equal for equal shards in equal order."""
        return self._index.fingerprint(self._places)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}

    def _locate(self, index: int) -> tuple[str, Places, int]:
        """Key, places of the members, and number of the shard of a sample; raises IndexError."""
        index = range(len(self))[index]
        row = self._rows[index]
        return self._index.key(row), self._index.members(row), bisect_right(self._starts, index) - 1

    def _column(self, name: str) -> np.ndarray:
        """A number of every sample that the index holds."""
        column, rows = self._index.column(name), self._rows
        return column[rows.start : rows.stop] if isinstance(rows, range) else column[rows]

    def _pread(self, shard: int, offset: int, size: int) -> bytes:
        file = self._file(shard)
        data = os.pread(file.descriptor, size, offset)
        self._check(shard, offset, size, len(data))
        return data

    def _file(self, shard: int) -> _File:
        """An open shard. Whoever reads from it must hold on to it: other threads close it to open another."""
        file = self._files.get(shard)
        if file is None:
            while len(self._files) >= self._open_files():
                self._files.pop(next(iter(list(self._files))), None)
            file = self._files[shard] = _File(self._path(shard))
        return file

    def _check(self, shard: int, offset: int, size: int, length: int) -> None:
        if length != size:
            name = self._shard_name(shard)
            raise RecordError(
                f"{name}: expected {size} bytes at {offset}, got {length}: the shard was cut while in use"
            )

    def _open(self) -> Selection:
        return Opening(Path(self.folder), self.verify, self._damaged).selection()

    def _place(self, name: str) -> str:
        """Where a shard of the index is."""
        return os.path.join("" if self.folder == "." else self.folder, name)

    def _shard_name(self, shard: int) -> str:
        return self._place(self._index.names[self._places[shard]].as_py())

    def _path(self, shard: int) -> Path:
        """The local file of a shard."""
        return Path(self._shard_name(shard))

    def _open_files(self) -> int:
        return OPEN_FILES

    def _captioned(self, index: int) -> Record:
        key, members, shard = self._locate(index)
        where = f"{self._shard_name(shard)}: {key}"
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
        if self._column("repeated")[index]:  # captions are often numbered anew in every shard
            plain = f"{PurePosixPath(self._shard_name(shard)).stem}-{plain}".replace(".", "-")
        try:
            annotation = ImageAnnotation(captions=[caption])
            return Record(key=plain, source="webdataset", image=ImageRef(id=key), annotation=annotation)
        except ValidationError as error:
            raise RecordError(f"{where}: {describe(error)}") from None

    def _damaged(self, line: str) -> None:
        if self.on_damage == "stop":
            raise ShardError(f"{line}. data.on_damage=skip goes on without it")
        self.damage.append(line)

    def _set_repeated_keys_aside(self) -> None:
        """A key stands for one record: that of the first shard that has it. Captions get other keys (`_captioned`)."""
        first: dict[str, int] = {}
        again = []
        repeated = np.flatnonzero(self._column("repeated")).tolist()
        for index in repeated if self._index.form == "records" else ():
            key, _, shard = self._locate(index)
            if first.setdefault(key, shard) != shard:
                again.append((shard, key, index))
        for shard, key, _ in sorted(again):
            name, other = self._shard_name(shard), self._shard_name(first[key])
            self._damaged(f"{name}: {key}: expected each key once, got it in {other} too")
        if again:
            self._rows = np.delete(np.asarray(self._rows), [index for *_, index in again])
            for shard, *_ in again:
                self.lengths[shard] -= 1
            self._starts = list(accumulate(self.lengths, initial=0))


class _File:
    """An open file, closed when nobody reads from it any more: threads share it, and one of them may evict it."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)
