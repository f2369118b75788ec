"""What worker processes do: rows to parts, groups to checked records, records to a shard.

Light: nothing here imports torch, so that a worker takes tens of megabytes.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from dress.data.images import UNUSABLE, ImageError, animated, header, open_image
from dress.data.index import MAX_JSON_BYTES, MAX_MEMBER_BYTES, index_shard
from dress.data.index import Entry as IndexEntry
from dress.data.shards import Sample, as_members, write_shard
from dress.record import ImageRef, Record, RecordError, check_parts, describe
from dress.sources.merging import MAX_KEY_BYTES, derived_key, group_name, image_of, merged
from dress.sources.protocol import Part, Place, RowError, Source, SourceError
from dress.sources.rows import MAX_ROW_BYTES, Fault, Row
from dress.sources.state import Entry, Folders, Group, GroupResult, ImageFacts, Reader
from dress.sources.strict_json import is_reject, parse_bytes, unwrapped

MAX_GROUP_BYTES = 4 * MAX_ROW_BYTES
"""Rows of one image are in memory together."""
NOTED = "\0"
"""Before a word that counts what is to be said of an import, and no word of its records."""
HELD = "\1"
"""Before a word that counts what records hold that somebody can learn from, or be measured by."""
RATINGS, CRITIQUES, REFERENCES = "ratings", "critiques", "references"
"""What an import holds: of answers, and of records of eval."""
ANIMATED = "animated images, of which the first frame is used"
_PART = TypeAdapter(Part)


@dataclass(frozen=True)
class Input:
    """A table of an import: its file's name relative to the import's path, and which array of it.

    `test`: rows of a test split. `rejects`: it is a reject file.
    """

    path: Path
    name: str
    array: str
    test: bool
    rejects: bool


@dataclass(frozen=True)
class Job:
    """All that workers need to know. `state`: the file that `state.State` writes; `parts`: those that parts wrote."""

    source: Source
    inputs: tuple[Input, ...]
    roots: tuple[Path, ...]
    state: Path
    allow_missing_images: bool
    max_aspect: float
    parts: tuple[Path, ...] = ()

    @property
    def remedy(self) -> str:
        """What to do where an image has changed."""
        return "delete the parts and make them again" if self.parts else "run the same command again"


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
        self.reader = Reader(job.state, job.parts)

    # --- rows ---

    def rows(self, table: int, rows: Sequence[Row]) -> list[list[Entry] | Fault]:
        """What each row says, as far as it decides what belongs together."""
        return [row.fault or self._entries(table, row) for row in rows]

    def _entries(self, table: int, row: Row) -> list[Entry] | Fault:
        try:
            parts, place = self._parts(table, row)
            if not parts:
                raise RowError("nothing to use", "expected something about an image, got nothing")
            return [self._entry(part, place, self.job.inputs[table].test) for part in parts]
        except (RowError, ValidationError) as error:
            return _fault(error)

    def _entry(self, part: Part, place: Place, test: bool) -> Entry:
        if len((part.key or "").encode()) > MAX_KEY_BYTES:
            raise RowError("bad key", f"expected a key of at most {MAX_KEY_BYTES} bytes, got {part.key!r:.120}")
        content = _PART.dump_json(part) + (place.file.encode() if part.repeated else b"")
        return Entry(
            group_name(part, place),
            None if part.image is None else image_of(part).id,
            part.key or derived_key(part, place),
            part.key is not None,
            part.split,
            test,
            hashlib.blake2b(content, digest_size=16).digest(),
        )

    def _parts(self, table: int, row: Row) -> tuple[list[Part], Place]:
        at = self.job.inputs[table]
        value, place = parse_bytes(row.data), Place(at.name, row.number, at.array)
        if at.rejects:
            value, place = unwrapped(value)
        return list(self.job.source.parts(value, place)), place

    # --- groups ---

    def check(self, groups: Sequence[Group]) -> tuple[list[GroupResult], dict[str, int]]:
        """Whether each group makes a record with an image that decodes; the words counted over the good ones."""
        results: list[GroupResult] = []
        words: Counter[str] = Counter()
        for group in groups:
            size = sha256 = None
            try:
                record, moving = self._record(group), False
                if record.image is not None:
                    facts = self._facts(record.image.id)
                    size, sha256, moving = facts.size, facts.sha256, facts.animated
                    _refuse(record.image, facts)
                record = self.job.source.finish(record)
                folders = self._folders(record, _split(group))
                words.update([*self.job.source.counted(record), *[NOTED + ANIMATED] * moving, *_held(record)])
                results.append(GroupResult(folders, size, sha256))
            except (RowError, ValidationError) as error:
                results.append(GroupResult(_fault(error), size, sha256))
        return results, dict(words)

    def _folders(self, record: Record, pinned: str | None) -> Folders:
        source = self.job.source
        folders = Folders(tuple(source.split(record, False)), tuple(source.split(record, True)))
        if pinned:
            folders = Folders((pinned,), ())
        if not any(folders):
            raise RowError("nothing to use", f"{record.key}: expected a caption, an answer or a question, got none")
        try:
            data = record.dump()
            check_parts(data, record.key)
        except RecordError as error:
            raise RowError("too large", str(error)) from None
        except ValueError as error:
            raise RowError("bad field", str(error)) from None
        if len(data) > MAX_JSON_BYTES:
            raise RowError("too large", f"{record.key}: expected a record of at most {MAX_JSON_BYTES:,} bytes")
        return folders

    def _record(self, group: Group) -> Record:
        if self.reader.size(group.rows) > MAX_GROUP_BYTES:
            raise RowError("too large", f"expected at most {MAX_GROUP_BYTES:,} bytes of rows about one image")
        return merged(self._parts_of(group), group.key, self.job.source.name)

    def _parts_of(self, group: Group) -> Iterator[Part]:
        for row in group.rows:
            parts, place = self._parts(*self.reader.row(row))
            yield from (part for part in parts if group_name(part, place) == group.name)

    # --- images ---

    def look(self, names: Sequence[str]) -> list[ImageFacts]:
        """What there is to be known of images."""
        return list(map(self._look, names))

    def _look(self, name: str) -> ImageFacts:
        size = size_of(self.job.roots, name)
        try:
            data = self._image(name)
        except RowError as error:
            return ImageFacts(size, fault=_fault(error))
        if data is None:
            return ImageFacts(size)
        sha256 = hashlib.sha256(data).hexdigest()
        try:
            open_image(data, name, self.job.max_aspect)
            return ImageFacts(size, sha256, animated(header(data, name, self.job.max_aspect)))
        except ImageError as error:
            return ImageFacts(size, sha256, fault=Fault(error.reason, str(error)))

    def _facts(self, name: str) -> ImageFacts:
        """What a part saw, or sees now.

        Raises:
            SourceError: it has another size now, or several parts saw different things.
        """
        if not self.job.parts:
            return self._look(name)
        facts = self.reader.facts(name)
        if facts is None or facts.size != size_of(self.job.roots, name):
            raise SourceError(f"{name}: changed since the parts were made; {self.job.remedy}")
        return facts

    def _image(self, name: str) -> bytes | None:
        roots = self.job.roots
        embedded = self.reader.image(name)
        if embedded is not None:
            return embedded
        file = image_file(roots, name)
        if file is None:
            if self.job.allow_missing_images:
                return None
            folders = " or ".join(map(str, roots))
            raise RowError(
                "image missing", f"{name}: expected this file in {folders}, found {_other_form(roots, name)}"
            )
        try:
            if file.stat().st_size > MAX_MEMBER_BYTES:
                raise RowError(UNUSABLE, f"{name}: expected at most {MAX_MEMBER_BYTES:,} bytes")
            return file.read_bytes()
        except OSError as error:
            raise RowError(UNUSABLE, f"{name}: {error.strerror}") from None

    # --- shards ---

    def shard(self, path: Path, split: str, groups: Sequence[Group], counts: Mapping[str, int]) -> IndexEntry:
        """Write a shard of a split; returns what the index says of it.

        One that is there is whole, and was left by a run that was killed: it stays.
        """
        if not path.is_file():
            write_shard(path, (as_members(*self._sample(group, split, counts)) for group in groups))
        stat = path.stat()
        return {"name": path.name, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, **index_shard(path)}

    def _sample(self, group: Group, split: str, counts: Mapping[str, int]) -> Sample:
        """Raises SourceError: its image is another one than when it was checked, or gone."""
        record = self._record(group)
        try:
            data = None if record.image is None else self._image(record.image.id)
        except RowError as error:
            raise SourceError(f"an image changed while it was read ({error}); {self.job.remedy}") from None
        if record.image is not None and data is not None:
            if hashlib.sha256(data).hexdigest() != group.sha256:
                raise SourceError(f"{record.image.id}: changed while it was read; {self.job.remedy}")
            image = record.image.model_copy(update={"sha256": group.sha256})
            record = record.model_copy(update={"image": image})
        record = self.job.source.finish(record)
        return record if _split(group) else self.job.source.written(record, split, counts), data

    # --- rejects ---

    def reject(self, table: int, row: Row) -> dict[str, Any]:
        """The line of the reject file: the row as it was, as JSON where it is JSON, else as text."""
        at, fault = self.job.inputs[table], row.fault or Fault("", "")
        place: dict[str, Any] = {"file": at.name, "line": row.number} | ({"array": at.array} if at.array else {})
        try:
            value = parse_bytes(row.data)
        except RowError:
            value = row.data.decode("utf-8", errors="backslashreplace").strip()
        if at.rejects and is_reject(value):
            return value | fault._asdict()
        return place | fault._asdict() | {"row": value}


def _refuse(ref: ImageRef, facts: ImageFacts) -> None:
    """Raises RowError: it is another image, is not there, or cannot be decoded."""
    if facts.sha256 is not None and ref.sha256 not in (None, facts.sha256):
        raise RowError("other image", f"{ref.id}: expected sha256 {ref.sha256}, got {facts.sha256}")
    if facts.fault is not None:
        raise RowError(*facts.fault)


def _held(record: Record) -> Iterator[str]:
    """A word for each rated, and for each criticised answer."""
    for turn in (turn for dialogue in record.dialogues for turn in dialogue.turns if turn.assistant):
        if turn.rating is not None:
            yield HELD + RATINGS
        if turn.critique and not turn.critique.isspace():
            yield HELD + CRITIQUES


def _split(group: Group) -> str | None:
    """The folder that its source pinned it to."""
    return group.name.partition(":")[0] or None


def _other_form(roots: Sequence[Path], name: str) -> str:
    """The form of Unicode in which an image's name is there, where it is, or none."""
    forms = {form: unicodedata.normalize(form, name) for form in ("NFC", "NFD")}
    matches = [form for form, other in forms.items() if other != name and image_file(roots, other)]
    if not matches:
        return "none"
    return f"it under the same name in Unicode form {matches[0]}: rename the file, or the image in the row"


def _fault(error: RowError | ValidationError) -> Fault:
    if isinstance(error, RowError):
        return Fault(error.reason, error.detail)
    return Fault("bad field", describe(error))
