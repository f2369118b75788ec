"""A set to look at: shards, or rows of anybody's files as far as they hold users' texts."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dress.data.splits import open_splits
from dress.record import Criterion, Dialogue, ImageAnnotation, Record, RecordError, Turn, describe
from dress.sources.llava import LLaVA
from dress.sources.lvlm_nlf import LVLMNLF
from dress.sources.merging import image_of
from dress.sources.protocol import Part, Place, RowError, Source
from dress.sources.row_files import row_files_of, rows_of
from dress.sources.strict_json import parse_bytes

QUESTIONS: dict[str, Criterion | None] = {"query": "harmlessness", "safe_query": None, "question": None, "text": None}
"""Fields of a row that hold one question, and what it is a question of (VLSafe, POPE, LLaVA's evaluations)."""

KNOWN: tuple[tuple[str, type[Source]], ...] = (("interaction", LVLMNLF), ("conversations", LLaVA))


@dataclass(frozen=True)
class Item:
    """A record and where it stands; `image` is None where the set has no bytes of it, `number` counts in its split."""

    split: str
    record: Record
    image: bytes | None
    number: int = 0


class DataSet:
    """All records of a folder of shards, of a file of rows, or of a folder of `*.jsonl`.

    Args:
        path: as the settings name it.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: shards none of which can be read, or no rows.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.damage: list[str] = []
        """What could not be read: where, and why."""
        place = Path(path)
        if not place.exists():
            raise FileNotFoundError(f"{path}: expected shards or rows, found none")
        self.has_images = place.is_dir() and next(place.glob("**/*.tar"), None) is not None
        """Shards hold images, rows name them."""
        self._shards = open_splits(path, on_damage="skip") if self.has_images else {}
        self._row_files = [] if self.has_images else row_files_of(place, "*.jsonl")
        self.splits = list(self._shards) or [row_file.file.stem for row_file in self._row_files]

    def __iter__(self) -> Iterator[Item]:
        """Raises ValueError: a file of rows without users' texts."""
        self.damage = [what for shards in self._shards.values() for what in shards.damage]
        return self._samples() if self.has_images else self._rows()

    def at(self, places: Collection[tuple[str, int]]) -> dict[tuple[str, int], Item]:
        """The records with these splits and numbers, that were read before."""
        if self.has_images:
            return {(split, n): Item(split, *self._shards[split][n], n) for split, n in places}
        damage = list(self.damage)
        items = {place: item for item in self._rows() if (place := (item.split, item.number)) in places}
        self.damage = damage  # what cannot be read was named the first time
        return items

    @property
    def size(self) -> int | None:
        """Number of records; None where it takes reading to know."""
        return sum(map(len, self._shards.values())) if self.has_images else None

    def _samples(self) -> Iterator[Item]:
        for split, shards in self._shards.items():
            for index in range(len(shards)):
                try:
                    yield Item(split, *shards[index], index)
                except RecordError as error:
                    self.damage.append(str(error))

    def _rows(self) -> Iterator[Item]:
        for row_file in self._row_files:
            file, number, size = row_file.file, 0, 0
            for row in rows_of(row_file)(0):
                number += 1
                try:
                    if row.fault:
                        raise RowError(*row.fault)
                    records = list(_records(parse_bytes(row.data), Place(file.name, row.number)))
                except (RowError, ValidationError) as error:
                    why = error.detail if isinstance(error, RowError) else describe(error)
                    self.damage.append(f"{file}:{row.number}: {why}")
                    continue
                yield from (Item(file.stem, record, None, n) for n, record in enumerate(records, start=size))
                size += len(records)
            if number and not size:
                raise ValueError(f"{file}: expected rows with users' texts, found none; first: {self.damage[-number]}")


def _records(row: Any, place: Place) -> Iterator[Record]:
    """Raises RowError or ValidationError: nothing that this reads."""
    if not isinstance(row, dict):
        raise RowError("bad field", f"expected an object, got {row!r:.80}")
    if "dialogues" in row:
        yield Record.model_validate(row)
        return
    source = next((source for name, source in KNOWN if name in row), None)
    parts = list(source().parts(row, place)) if source else [_asked(row)]
    for part in parts:
        yield Record(
            key=part.key or f"{Path(place.file).stem.replace('.', '-')}-{place.number:06d}",
            source=part.source or place.file,
            image=None if part.image is None else image_of(part),
            annotation=part.annotation,
            dialogues=part.dialogues,
        )


def _asked(row: dict[str, Any]) -> Part:
    texts = {name: row[name] for name in QUESTIONS if isinstance(row.get(name), str) and row[name].strip()}
    if not texts:
        expected = f"dialogues, {', '.join(name for name, _ in KNOWN)}, {', '.join(QUESTIONS)}"
        raise RowError("no users' texts", f"expected one of the fields {expected}, got {', '.join(map(str, row))}")
    image = next((row[name] for name in ("image_id", "image") if isinstance(row.get(name), str)), None)
    caption = row.get("caption")
    return Part(
        image=image or None,
        annotation=ImageAnnotation(captions=[caption] if isinstance(caption, str) else []),
        dialogues=[Dialogue(criterion=QUESTIONS[name], turns=[Turn(user=text)]) for name, text in texts.items()],
    )
