"""Files as they are found: JSON, JSON lines, objects one after the other, with any line ends; CSV, TSV, Parquet, Arrow.

What cannot be read is named by its place and handed on; it is never dropped.
"""

from __future__ import annotations

import json
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dress.base.files import read_text
from dress.coco.mentions import normal
from dress.evaluation.outcomes import Outcome
from dress.rollout.answer_rows import IMAGES, KEY, NUMBERS, QUESTIONS, is_table, table_rows

_NEXT = re.compile(r"\n[ \t]*[{\[]")
_COCO = re.compile(r"^(?:COCO_(?:train|val|test)\d{4}_)?0*(\d+)(?:\.(?:jpe?g|png|webp))?$", re.IGNORECASE)


@dataclass(frozen=True)
class FileRow:
    """One object of a file and its place (`answers.jsonl:7`); `damage` says why it is none."""

    where: str
    data: dict[str, Any]
    damage: str | None = None

    def text(self, *names: str) -> str | None:
        """The first of these fields that is there, as text; None if there is none."""
        for name in names:
            value = self.data.get(name)
            if value is not None:
                return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return None

    @property
    def number(self) -> str | None:
        """The id of a question: `question_id`, `id`, or `key`."""
        return self.text(*NUMBERS, KEY)

    @property
    def image(self) -> str | None:
        """What the row calls its image."""
        return self.text(*IMAGES)

    @property
    def names(self) -> list[tuple[str, ...]]:
        """By which rows of two files about one question find each other: its id; image and words; the words alone."""
        words = normal((self.text(*QUESTIONS, "text") or "").replace("<image>", " "))
        number = [] if self.number is None else [(self.number,)]
        if self.image is not None:
            return [*number, (image_key(self.image), words)]
        return [*number, ("", words)] if words else [*number]

    def failed(self, reason: str, **more: Any) -> Outcome:
        """The outcome of a row that is in no figure; `more` are further fields, among them perhaps its item."""
        return Outcome(**({"item": self.where, "failed": reason, "where": self.where} | more))


def read_values(setting: str, path: str) -> list[tuple[str, Any, str | None]]:
    """Every top-level JSON value with its place, and what is damaged in between.

    Raises:
        FileNotFoundError, ValueError: no such file, or nothing in it.
    """
    text = read_text(setting, path)
    breaks = [match.start() for match in re.finditer("\n", text)]
    decoder, place = json.JSONDecoder(), 0
    values: list[tuple[str, Any, str | None]] = []
    while True:
        while place < len(text) and text[place] in " \t\r\n,":
            place += 1
        if place == len(text):
            break
        where = f"{Path(path).name}:{bisect_right(breaks, place) + 1}"
        try:
            value, place = decoder.raw_decode(text, place)
            values.append((where, value, None))
        except (json.JSONDecodeError, RecursionError):
            further = _NEXT.search(text, place)
            values.append((where, None, "not JSON"))
            place = further.start() + 1 if further else len(text)
    if not values:
        raise ValueError(f"{setting}={path}: expected JSON, got an empty file")
    return values


def read_rows(setting: str, path: str) -> list[FileRow]:
    """The rows of a file: JSON lines, objects one after the other, or one list of them; CSV, TSV, Parquet, Arrow.

    Raises:
        FileNotFoundError, ValueError: no such file, nothing in it, or no object in it.
    """
    if is_table(Path(path)):
        return _table(setting, path)
    rows = []
    for where, value, damage in read_values(setting, path):
        inside = value if isinstance(value, list) else [value]
        for number, item in enumerate(inside):
            place = f"{where}[{number}]" if isinstance(value, list) else where
            if damage is None and not isinstance(item, dict):
                rows.append(FileRow(place, {}, f"not an object but {json.dumps(item, ensure_ascii=False):.40}"))
            else:
                rows.append(FileRow(place, item or {}, damage))
    if not any(row.damage is None for row in rows):
        raise ValueError(f"{setting}={path}: expected JSON objects, got {rows[0].damage if rows else 'an empty list'}")
    return rows


def _table(setting: str, path: str) -> list[FileRow]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{setting}={path}: expected a file, found none")
    try:
        rows = [FileRow(f"{Path(path).name}:{n}", fields, damage) for n, fields, damage in table_rows(Path(path))]
    except ValueError as error:
        raise ValueError(f"{setting}={error}") from None
    if not any(row.damage is None for row in rows):
        raise ValueError(f"{setting}={path}: expected rows, got {rows[0].damage if rows else 'none'}")
    return rows


def beside(rows: Iterable[FileRow]) -> Callable[[FileRow], FileRow | None]:
    """Finds, for the row of a question, the row of another file that is about it; see `FileRow.names`."""
    by_name: dict[tuple[str, ...], FileRow] = {}
    for row in rows:
        for name in row.names if row.damage is None else []:
            by_name[name] = row
    return lambda row: next((by_name[name] for name in row.names if name in by_name), None)


def read_mapping(setting: str, path: str) -> dict[str, Any] | list[FileRow]:
    """One object alone, as a mapping; anything else as rows."""
    if is_table(Path(path)):
        return _table(setting, path)
    values = read_values(setting, path)
    if len(values) == 1 and isinstance(values[0][1], dict):
        return values[0][1]
    return read_rows(setting, path)


def image_key(image: Any) -> str:
    """One name for an image however it is written: COCO's number, or the file's name.

    `40468`, `"000000040468.jpg"` and `"COCO_val2014_000000040468.jpg"` are one image.
    """
    name = unicodedata.normalize("NFC", str(image)).replace("\\", "/").rpartition("/")[2].strip()
    number = _COCO.match(name)
    return number[1] if number else name


def first_line(text: str) -> str:
    """The first line that says something, with single spaces."""
    return next((" ".join(line.split()) for line in text.splitlines() if line.strip()), "")
