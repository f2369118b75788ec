"""What worker processes do: rows to parts, groups to checked records, records to a shard.

Light: nothing here imports torch, so that a worker takes tens of megabytes.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from dress.data.images import UNUSABLE, ImageError, animated, header, open_image
from dress.data.index import MAX_JSON_BYTES, MAX_MEMBER_BYTES, index_shard
from dress.data.shards import Sample, as_members, write_shard
from dress.record import ImageRef, Record, RecordError, check_parts, describe
from dress.sources.merging import MAX_KEY_BYTES, derived_key, group_name, image_of, merged
from dress.sources.ranges import MAX_ROW_BYTES, Layout, Range
from dress.sources.rows import Part, Place, Rejected, Source, SourceError
from dress.sources.spool import Checked, Fault, Found, Good, Group, RowAt
from dress.sources.values import is_reject, unwrapped, value

MAX_GROUP_BYTES = 4 * MAX_ROW_BYTES
"""Rows of one image are in memory together."""


_PART = TypeAdapter(Part)


@dataclass(frozen=True)
class Input:
    """A table of an import: its file's name relative to the import's path, and how its rows stand.

    `wrapped`: it is a reject file.
    """

    path: Path
    name: str
    array: str
    how: Layout
    wrapped: bool = False


@dataclass(frozen=True)
class Job:
    """All that workers need to know."""

    source: Source
    inputs: tuple[Input, ...]
    roots: tuple[Path, ...]
    allow_missing_images: bool
    max_aspect: float


NOTED = "\0"
"""Before a word that counts what is to be said of an import, and no word of its records."""
ANIMATED = "animated images, of which the first frame is used"


def image_file(roots: Sequence[Path], name: str) -> Path | None:
    """The image of that name in the first folder that has it."""
    return next((file for root in roots if (file := root / name).is_file()), None)


def size_of(roots: Sequence[Path], name: str) -> int:
    """Of an image's file, in bytes; -1 where there is none."""
    file = image_file(roots, name)
    return -1 if file is None else file.stat().st_size


class Worker:
    """Does the work of one process."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._files: dict[int, int] = {}

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._files.values():
            os.close(file)

    def _read(self, row: RowAt) -> bytes:
        if row.table not in self._files:
            self._files[row.table] = os.open(self.job.inputs[row.table].path, os.O_RDONLY)
        return os.pread(self._files[row.table], min(row.size, MAX_ROW_BYTES), row.offset)

    # --- rows ---

    def rows(self, table: int, rows: Sequence[Range]) -> list[list[Found] | Fault]:
        """What each row says, as far as it decides what belongs together."""
        return [self._found(table, row) for row in rows]

    def _found(self, table: int, row: Range) -> list[Found] | Fault:
        try:
            parts, place = self._parts(table, row)
            if not parts:
                raise Rejected("nothing to use", "expected something about an image, got nothing")
            return [self._part(part, place) for part in parts]
        except (Rejected, ValidationError) as error:
            return _fault(error)

    def _part(self, part: Part, place: Place) -> Found:
        said = _PART.dump_json(part) + (place.file.encode() if part.repeated else b"")
        image = None if part.image is None else image_of(part).id
        given = part.key is not None
        if len((part.key or "").encode()) > MAX_KEY_BYTES:
            raise Rejected("bad key", f"expected a key of at most {MAX_KEY_BYTES} bytes, got {part.key!r:.120}")
        key = part.key or derived_key(part, place)
        name = group_name(part, place)
        return Found(name, image, key, given, part.split, hashlib.blake2b(said, digest_size=16).digest())

    def _parts(self, table: int, row: Range) -> tuple[list[Part], Place]:
        at = self.job.inputs[table]
        raw = b"" if row.size > MAX_ROW_BYTES else self._read(RowAt(table, row.number, row.offset, row.size))
        got, place = value(raw, row, at.how), Place(at.name, row.number, at.array)
        if at.wrapped:
            got, place = unwrapped(got)
        return list(self.job.source.parts(got, place)), place

    # --- groups ---

    def check(self, groups: Sequence[Group]) -> tuple[list[Checked], dict[str, int]]:
        """Whether each group makes a record with an image that decodes; the words counted over the good ones."""
        results: list[Checked] = []
        words: Counter[str] = Counter()
        for group in groups:
            size, sha256, moving = None, None, False
            try:
                record = self._record(group)
                size = None if record.image is None else size_of(self.job.roots, record.image.id)
                data = self._image(record)
                if record.image is not None and data is not None:
                    sha256 = hashlib.sha256(data).hexdigest()
                    moving = self._check_image(record.image, data, sha256)
                record = self.job.source.finish(record)
                good = self._good(record, self._split(group))
                words.update(self.job.source.counted(record))
                if moving:
                    words[NOTED + ANIMATED] += 1
                results.append(Checked(good, size, sha256))
            except (Rejected, ValidationError) as error:
                results.append(Checked(_fault(error), size, sha256))
        return results, dict(words)

    def _good(self, record: Record, pinned: str | None) -> Good:
        source = self.job.source
        taught = (pinned,) if pinned else tuple(source.split(record, False))
        held = () if pinned else tuple(source.split(record, True))
        if not taught and not held:
            raise Rejected("nothing to use", f"{record.key}: expected a caption, an answer or a question, got none")
        try:
            data = record.dump()
            check_parts(data, record.key)
        except RecordError as error:
            raise Rejected("too large", str(error)) from None
        except ValueError as error:
            raise Rejected("bad field", str(error)) from None
        if len(data) > MAX_JSON_BYTES:
            raise Rejected("too large", f"{record.key}: expected a record of at most {MAX_JSON_BYTES:,} bytes")
        return Good(taught, held)

    def _record(self, group: Group) -> Record:
        if sum(row.size for row in group.rows) > MAX_GROUP_BYTES:
            raise Rejected("too large", f"expected at most {MAX_GROUP_BYTES:,} bytes of rows about one image")
        return merged(self._of(group), group.key, self.job.source.name)

    def _of(self, group: Group) -> Iterator[Part]:
        for row in group.rows:
            parts, place = self._parts(row.table, Range(row.number, row.offset, row.size))
            yield from (part for part in parts if group_name(part, place) == group.name)

    def _split(self, group: Group) -> str | None:
        return group.name.partition(":")[0] or None

    def _image(self, record: Record) -> bytes | None:
        if record.image is None:
            return None
        name = record.image.id
        file = image_file(self.job.roots, name)
        if file is None:
            if self.job.allow_missing_images:
                return None
            looked = " or ".join(str(root) for root in self.job.roots)
            raise Rejected("image missing", f"{name}: expected this file in {looked}, found {self._other_form(name)}")
        try:
            if file.stat().st_size > MAX_MEMBER_BYTES:
                raise Rejected(UNUSABLE, f"{name}: expected at most {MAX_MEMBER_BYTES:,} bytes")
            return file.read_bytes()
        except OSError as error:
            raise Rejected(UNUSABLE, f"{name}: {error.strerror}") from None

    def _check_image(self, ref: ImageRef, data: bytes, sha256: str | None) -> bool:
        """Whether it is an animation."""
        if ref.sha256 not in (None, sha256):
            raise Rejected("other image", f"{ref.id}: expected sha256 {ref.sha256}, got {sha256}")
        try:
            open_image(data, ref.id, self.job.max_aspect)
            return animated(header(data, ref.id, self.job.max_aspect))
        except ImageError as error:
            raise Rejected(error.reason, str(error)) from None

    def _other_form(self, name: str) -> str:
        """The form of Unicode in which an image's name is there, where it is, or none."""
        forms = {form: unicodedata.normalize(form, name) for form in ("NFC", "NFD")}
        there = [form for form, other in forms.items() if other != name and image_file(self.job.roots, other)]
        if not there:
            return "none"
        return f"it under the same name in Unicode form {there[0]}: rename the file, or the image in the row"

    # --- shards ---

    def shard(
        self, split: str, number: int, groups: Sequence[Group], counts: Mapping[str, int], folder: Path
    ) -> tuple[str, int]:
        """Write `folder/<split>/shard-<number>.tar`; its sha256 and how many records it holds.

        One that is there is whole, and was written ahead of the record by a run that was killed: it stays.
        """
        path = folder / split / f"shard-{number:06d}.tar"
        path.parent.mkdir(exist_ok=True)
        try:
            if not path.is_file():
                write_shard(path, (as_members(*self._sample(group, split, counts)) for group in groups))
        except (Rejected, ValidationError) as error:  # it was good when it was checked
            raise SourceError(f"a row changed while it was read ({error}); run the same command again") from None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), len(groups)

    def _sample(self, group: Group, split: str, counts: Mapping[str, int]) -> Sample:
        record = self._record(group)
        data = self._image(record)
        if record.image is not None and data is not None:
            if hashlib.sha256(data).hexdigest() != group.sha256:
                raise SourceError(f"{record.image.id}: changed while it was read; run the same command again")
            image = record.image.model_copy(update={"sha256": group.sha256})
            record = record.model_copy(update={"image": image})
        record = self.job.source.finish(record)
        if not self._split(group):
            record = self.job.source.written(record, split, counts)
        return record, data

    def index(self, folder: Path, name: str) -> dict[str, Any]:
        """The index entry of a shard that was written."""
        path = folder / name
        stat = path.stat()
        return {"name": name, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, **index_shard(path)}

    # --- rejects ---

    def reject(self, row: RowAt, fault: str, why: Fault) -> dict[str, Any]:
        """The line of the reject file: the row as it was, as JSON where it is JSON, else as text."""
        at = self.job.inputs[row.table]
        raw = self._read(row)
        said: dict[str, Any] = {"reason": why.reason, "detail": why.detail}
        place: dict[str, Any] = {"file": at.name, "line": row.number}
        if at.array:
            place["array"] = at.array
        try:
            got = value(raw, Range(row.number, row.offset, row.size, fault), at.how)
        except Rejected:
            got = raw.decode("utf-8", errors="backslashreplace").strip()
            if row.size > MAX_ROW_BYTES:
                got, said["offset"], said["size"] = got[:1000], row.offset, row.size
        if at.wrapped and is_reject(got):
            return got | said
        return place | said | {"row": got}


def _fault(error: Rejected | ValidationError) -> Fault:
    if isinstance(error, Rejected):
        return Fault(error.reason, error.detail)
    return Fault("bad field", describe(error))
