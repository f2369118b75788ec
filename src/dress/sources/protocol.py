"""The protocol between a public format and the import: what one row says about one image.

A source turns a row into parts. The engine (`importing`) reads rows, merges the parts of one image into
one record, checks images, and writes the split folders. A row that cannot be used raises `RowError`, or
pydantic's `ValidationError` where a field does not fit; either way it is counted and set aside.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dress.record import Dialogue, ImageAnnotation, ImageRef, Record, Turn
from dress.sources.rows import Row

SPLITS = ("align", "sft", "prompts", "feedback", "eval")


class SourceError(ValueError):
    """An import that cannot be made; the message names the file or setting, expected and got."""


class RowError(ValueError):
    """A row that cannot be used.

    Args:
        reason: a few words, the same for the same fault; rows are counted by it.
        detail: field, expected, got.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[type[RowError], tuple[str, str]]:
        return RowError, (self.reason, self.detail)


@dataclass(frozen=True)
class RowFile:
    """Rows of a file: JSON lines, a JSON array, JSON values one after another, CSV with a header, Parquet or Arrow.

    `array` names the member of a JSON object that holds the rows, e.g. `annotations` in COCO's files. `test`: the
    publisher's test or validation split, whose images are held out and never taught.
    """

    file: Path
    array: str = ""
    test: bool = False


@dataclass(frozen=True)
class Place:
    """Where a row stands: file (relative to the import's path), number from 1, array in the file.

    Rows of a reject file that are imported again stand where they stood at first.
    """

    file: str
    number: int
    array: str = ""


@dataclass(kw_only=True)
class Part:
    """What one row says about one image. Parts of the same image become one record, in row order.

    `image` is a file name relative to the images' folder (or a reference with that name as `id`; a `sha256`
    in it must be the file's); None for text only. Parts are merged by `group`
    (default: the image; a part without either is a record of its own). `key` is the record's (default:
    made of the image's name, or of file name and row number); two images with one given key are a fault.
    `split` pins the record to one folder, where it is written as it is (default: `Source.split`).
    `repeated`: other files say the same (COCO lists its images in each), which is no duplicate.
    `source` defaults to the source's name. Unknown fields of a row belong into `extra` of the dialogue
    (turn, feedback …) that they are about; `extra` here goes to the record, and what differs there
    between parts is kept in a list `merged`.
    """

    image: str | ImageRef | None = None
    dialogues: list[Dialogue] = field(default_factory=list)
    annotation: ImageAnnotation = field(default_factory=ImageAnnotation)
    group: str | None = None
    key: str | None = None
    split: str | None = None
    source: str | None = None
    repeated: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


class Source:
    """One public format. A subclass names it and gives at least `row_files` and `parts`.

    It travels to worker processes by pickle after `open`.
    """

    name: str
    version: int = 1
    """Raised when the same files would give other records."""
    splits: Collection[str] = SPLITS
    """The folders it can write; with `eval` among them, records are held out for it by hash."""
    licence: str = "not stated"
    """The set's, as its publisher names it."""
    usual: Collection[str] | None = None
    """The folders it writes unless `splits=` says otherwise; None: all it can write."""

    @property
    def settings(self) -> dict[str, Any]:
        """What its records depend on beside the files; known after `open`."""
        return {}

    def row_files(self, path: Path) -> list[RowFile]:
        """Which files hold rows, in the order in which they are read.

        Raises:
            SourceError: `path` does not hold what the format asks for.
        """
        raise NotImplementedError

    def image_roots(self, path: Path) -> list[Path]:
        """Folders that image names are relative to, the first that has the file; `images=` replaces them."""
        folder = path if path.is_dir() else path.parent
        return [folder / "images", folder]

    def open(self, path: Path, images: Path | None) -> list[Path]:
        """Read what rows refer to and is small (categories, labels per image), before any row.

        Returns:
            The files that were read: the import depends on them as well.

        Raises:
            SourceError: `path` does not hold what the format asks for.
        """
        return []

    def prepared(self, row: Row) -> Row:
        """A row as it is kept until its parts are asked for: with images that it holds beside it."""
        return row

    def parts(self, value: Any, place: Place) -> Iterable[Part]:
        """What a row says: a pure function of its value (any JSON value; of CSV a dict of texts).

        Raises:
            RowError: it cannot be used.
            ValidationError: a field does not fit.
        """
        raise NotImplementedError

    def finish(self, record: Record) -> Record:
        """The merged record made whole: what only all of its rows together tell.

        Raises:
            RowError: it cannot be used; all its rows are rejected.
        """
        return record

    def split(self, record: Record, held_out: bool) -> Collection[str]:
        """The folders that this record goes to."""
        if held_out:
            return ("eval",) if "eval" in self.splits and _first_questions(record) else ()
        contents = {
            "align": record.image is not None and record.annotation.captions,
            "sft": _taught(record),
            "prompts": _first_questions(record),
            "feedback": _rated(record),
        }
        return [split for split, content in contents.items() if content and split in self.splits]

    def counted(self, record: Record) -> Iterable[str]:
        """Words counted over all records of the import; `written` is given the counts."""
        return ()

    def written(self, record: Record, split: str, counts: Mapping[str, int]) -> Record:
        """The record as it stands in a split.

        `sft` teaches answers that nobody judged, `feedback` holds the judged ones, `prompts` and `eval` ask
        first questions again, without answers.
        """
        match split:
            case "align":
                dialogues: list[Dialogue] = []
            case "sft":
                dialogues = _taught(record)
            case "feedback":
                dialogues = _rated(record)
            case _:
                dialogues = _first_questions(record)
        return record.model_copy(update={"dialogues": dialogues})


def _rated(record: Record) -> list[Dialogue]:
    return [d for d in record.dialogues if any(turn.feedback for turn in d.turns)]


def _taught(record: Record) -> list[Dialogue]:
    return [d for d in record.dialogues if d.turns[0].assistant and not any(turn.feedback for turn in d.turns)]


def _first_questions(record: Record) -> list[Dialogue]:
    """Each first question once, open; what was taught as its answer is the reference."""
    questions: dict[tuple[str | None, str | None, str], Dialogue] = {}
    for dialogue in record.dialogues:
        first = dialogue.turns[0]
        judged = any(turn.feedback for turn in dialogue.turns)
        reference = dialogue.reference or (None if judged else first.assistant)
        question = dialogue.model_copy(update={"reference": reference, "turns": [Turn(user=first.user)]})
        questions.setdefault((dialogue.criterion, dialogue.system, first.user), question)
    return list(questions.values())
