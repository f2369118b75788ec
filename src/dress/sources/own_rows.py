"""Anybody's table: a mapping says what its columns mean (`config.rows`), and usual names speak for themselves.

JSON, JSON lines, CSV, TSV, Parquet and Arrow. Of each row an image, and dialogues over it: judged answers with
their feedback, a known good answer as one that is taught, or the open question.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from dress.coco.questions import questions
from dress.config.rows import RowMapping
from dress.record import TOP_RATING, Dialogue, ImageAnnotation, Record, known_answers
from dress.sources.cells import opened_json
from dress.sources.embedded import with_images_beside
from dress.sources.fields import plain_path
from dress.sources.guessing import Meaning, meaning, placed
from dress.sources.protocol import Part, Place, RowError, RowFile, Source, SourceError
from dress.sources.row_cells import RowCells
from dress.sources.row_dialogues import dialogues_of
from dress.sources.row_files import is_test, row_files_of, rows_of
from dress.sources.rows import Row
from dress.sources.scales import suggestion
from dress.sources.strict_json import is_reject, parse_bytes
from dress.sources.table_listing import listed_files
from dress.sources.unpacking import UNPACK
from dress.sources.worker import NOTED

SEEN = 200
"""First rows that columns and ratings are looked up in."""
ONLY_TEXTS = (".csv", ".tsv")
"""Files whose cells have no types."""
TEXT_FILES = ("*.json", "*.jsonl", "*.ndjson", "*.csv", "*.tsv")
DEEPER = ("*/*.parquet", "data/*/*.parquet", "*/*.jsonl", "*/*.json", "*/*.csv")
"""In a folder with nothing in itself: a folder a split, or a configuration."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_IMAGE_FILE = re.compile(r"\.(?:jpe?g|png|webp|bmp|gif|tiff?)$", re.IGNORECASE)


class OwnRows(Source):
    """See `protocol.Source`.

    Args:
        mapping: what the columns mean.
    """

    name = "rows"
    version = 2

    def __init__(self, mapping: RowMapping | None = None) -> None:
        self.mapping = RowMapping() if mapping is None else mapping
        self.name, self.licence = self.mapping.name, self.mapping.licence
        self.meaning: Meaning = {}
        self.first: list[dict[str, Any]] = []
        self._roots: list[Path] = []
        self._folders: dict[str, str] = {}
        self._more_images: list[str] = []

    @property
    def settings(self) -> dict[str, Any]:
        """What the records depend on beside the files."""
        return {
            "mapping": self.mapping.model_dump(mode="json", by_alias=True, exclude_defaults=True),
            "columns": self.meaning,
        }

    # --- files ---

    def row_files(self, path: Path) -> list[RowFile]:
        """A file; or of a folder its text files, else Parquet or Arrow in it or one folder below."""
        listing = path / self.mapping.listing if self.mapping.listing and path.is_dir() else path
        if self.mapping.listing and listing.suffix == ".json" and listing.name == self.mapping.listing:
            return [RowFile(file) for file in listed_files(listing)]
        try:
            row_files = row_files_of(path, *TEXT_FILES)
        except SourceError:
            if not any(next(path.glob(pattern), None) for pattern in DEEPER):
                raise
            row_files = row_files_of(path, *DEEPER)
        return [replace(one, test=one.test or (path.is_dir() and _of_test(one.file, path))) for one in row_files]

    def image_roots(self, path: Path) -> list[Path]:
        """Also the folder above, where a listing says so."""
        folder = path if path.is_dir() else path.parent
        return [*super().image_roots(path), *([folder.parent] if self._folders else [])]

    def prepared(self, row: Row) -> Row:
        """Images in base64 beside the row; see `protocol.Source.prepared`."""
        return with_images_beside(row)

    def open(self, path: Path, images: Path | None) -> list[Path]:
        """Finds out what the columns are.

        Raises:
            SourceError: a stated column is not there, none has a usual name, or ratings need a scale.
        """
        row_files, read = self.row_files(path), []
        listing = path / self.mapping.listing if self.mapping.listing and path.is_dir() else path
        if self.mapping.listing and listing.name == self.mapping.listing and listing.is_file():
            self._folders = {_name(file, path): root for file, root in listed_files(listing).items()}
            read = [listing]
        self._roots = [images] if images else self.image_roots(path)
        self.first = self._first_rows(row_files)
        if not self.first:
            return read  # the import says what is wrong with each
        self.meaning = meaning(self.mapping, self.first, path)
        self._more_images = _numbered_like(self.meaning, self.first)
        self._check_ratings(path)
        return read

    def _first_rows(self, row_files: list[RowFile]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for row_file in row_files:
            for row in islice(map(self.prepared, rows_of(row_file)(0)), SEEN - len(rows)):
                try:
                    value: Any = None if row.fault else parse_bytes(row.data)
                    value = value["row"] if is_reject(value) else value
                    if isinstance(value, dict):
                        rows.append(self._unpacked(value))
                except RowError:
                    continue
        return rows

    def _check_ratings(self, path: Path) -> None:
        """Raises SourceError: ratings are of another scale than 1-4, and nothing says of which."""
        scales = {"": self.mapping.rating}
        scales |= {f"feedback.{n}.": one.scale or self.mapping.rating for n, one in enumerate(self.mapping.feedback)}
        for prefix, scale in scales.items():
            values = [RowCells(row, self.meaning).value(prefix + "rating") for row in self.first]
            flat = [one for value in values for one in (value if isinstance(value, list) else [value])]
            advice = suggestion(flat) if scale is None else None
            if advice:
                raise SourceError(
                    f"{path}: expected ratings 1-4 in {placed(self.meaning, prefix + 'rating')}, got {advice}"
                )

    # --- rows ---

    def cells(self, row: dict[str, Any], place: Place) -> RowCells:
        """A row, taken apart already, with the meaning of its columns."""
        return RowCells(row, self.meaning, only_texts=place.file.lower().endswith(ONLY_TEXTS))

    def _unpacked(self, row: dict[str, Any]) -> dict[str, Any]:
        return UNPACK[self.mapping.unpack](row) if self.mapping.unpack else row

    def parts(self, value: Any, place: Place) -> Iterable[Part]:
        """One part a row; see `protocol.Source.parts`."""
        if not isinstance(value, dict):
            raise RowError("bad field", f"expected an object with columns, got {value!r:.80}")
        yield self.part(self._unpacked(value), place)

    def part(self, row: dict[str, Any], place: Place) -> Part:
        """What a row says that is taken apart already.

        Raises:
            RowError: it cannot be used.
            ValidationError: a field does not fit.
        """
        cells = self.cells(row, place)
        if cells.value("video"):
            raise RowError("video", f"{cells.name('video')}: expected an image, got a video")
        image = self._image(cells.value("image"), cells.name("image"), place)
        if image is not None and (more := [name for name in self._more_images if row.get(name)]):
            raise RowError("several images", f"{cells.name('image')}: expected one image, got others in {more}")
        key = cells.text("key")
        captions = _captions(cells) if image else []
        dialogues = dialogues_of(cells, self.mapping, image is not None)
        rest = cells.rest()
        return Part(
            image=image,
            key=key,
            dialogues=[dialogue.model_copy(update={"extra": dialogue.extra | rest}) for dialogue in dialogues],
            annotation=ImageAnnotation(captions=captions),
            extra={} if dialogues else rest,
        )

    def _image(self, value: Any, field: str, place: Place) -> str | None:
        if isinstance(value, str) and value.startswith("["):  # of a CSV file
            value = opened_json(value)
        if isinstance(value, str) and not any((root / value).is_file() for root in self._roots):
            value = _listed(value)
        if isinstance(value, list):
            if len(value) > 1:
                raise RowError("several images", f"{field}: expected one image, got {len(value)}")
            value = value[0] if value else None
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if value is None or value == "":
            return None
        if isinstance(value, str) and _URL.match(value):
            raise RowError("image is a URL", f"{field}: expected a file name, got {value!r:.80}. Download it first")
        if isinstance(value, str) and value.startswith("/"):
            inside = [root for root in self._roots if Path(value).is_relative_to(root.resolve())]
            if not inside:
                folders = " or ".join(map(str, self._roots))
                expected = f"a file in {folders} (images=DIR says another folder)"
                raise RowError("bad image name", f"{field}: expected {expected}, got {value!r:.80}")
            value = str(Path(value).relative_to(inside[0].resolve()))
        name = plain_path(value, field)
        return f"{self._folders[place.file]}/{name}" if place.file in self._folders else name

    # --- records ---

    def split(self, record: Record, held_out: bool) -> Collection[str]:
        """See `protocol.Source.split`; captions also teach, as descriptions."""
        described = self.described(record)
        names = super().split(described, held_out)
        return names if _taught(described) else [name for name in names if name != "sft"]

    def written(self, record: Record, split: str, counts: Mapping[str, int]) -> Record:
        """See `protocol.Source.written`; an answer beside a known good one is not taught."""
        written = super().written(self.described(record), split, counts)
        match split:
            case "sft":
                return written.model_copy(update={"dialogues": _taught(written)})
            case "eval":
                asked = [_with_reference(question, record) for question in written.dialogues]
                return written.model_copy(update={"dialogues": asked})
        return written

    def counted(self, record: Record) -> Iterable[str]:
        """See `protocol.Source.counted`; what lacks the picture that other rows have."""
        if "image" in self.meaning and record.image is None:
            yield NOTED + "rows without a picture, used as text only"

    def described(self, record: Record) -> Record:
        """A record of captions alone, with a description in place of dialogues."""
        if record.dialogues or not record.annotation.captions or record.image is None:
            return record
        return record.model_copy(update={"dialogues": questions(record, True, {}, self.name)})


def _taught(record: Record) -> list[Dialogue]:
    """What has a reference of its own is no good answer itself."""
    return [d for d in record.dialogues
            if d.turns[0].assistant and d.reference is None and not any(turn.feedback for turn in d.turns)]  # fmt: skip


def _with_reference(question: Dialogue, record: Record) -> Dialogue:
    """A question with the best first answer to it, where nothing else is known to be good."""
    if known_answers(question):
        return question
    asked = question.turns[0].user, question.system
    firsts = [one.turns[0] for one in record.dialogues if (one.turns[0].user, one.system) == asked]
    good = (turn.assistant for turn in firsts if turn.rating == TOP_RATING or turn.extra.get("pair") == "chosen")
    return question.model_copy(update={"reference": next(good, None)})


def _numbered_like(meaning: Meaning, rows: list[dict[str, Any]]) -> list[str]:
    """Columns `image_2, image_3` beside the image's, `image_1`."""
    stated = {places[0][0] for places in meaning.get("image", ()) if places}
    stems = {re.sub(r"\d+$", "", name) for name in stated if re.search(r"\d$", name)}
    columns = dict.fromkeys(name for row in rows for name in row)
    return [name for name in columns if name not in stated and re.sub(r"\d+$", "", name) in stems]


def _listed(value: str) -> str | list[str]:
    """Names of several images in one text, `a.png;b.png`, as a list; else the text."""
    names = re.split(r"\s*[;,|\n]\s*", value)
    return names if len(names) > 1 and all(map(_IMAGE_FILE.search, names)) else value


def _captions(cells: RowCells) -> list[str]:
    value = cells.value("captions")
    texts = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(text, str) for text in texts):
        raise RowError("bad field", f"{cells.name('captions')}: expected text or texts, got {value!r:.80}")
    return [text for text in texts if text.strip()]


def _of_test(file: Path, path: Path) -> bool:
    """Whether a file, or its folder below `path`, is named as a publisher's test split."""
    return any(is_test(PurePosixPath(part).name) for part in file.relative_to(path).parts)


def _name(file: Path, path: Path) -> str:
    return file.relative_to(path).as_posix() if file.is_relative_to(path) and file != path else file.name
