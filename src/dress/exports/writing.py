"""What the formats share: rows written one by one, images beside them, and account of what was left out."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

from dress.data.shards import Damage, image_extension
from dress.data.splits import Splits
from dress.record import Dialogue, Record, RecordError, Turn
from dress.sources.fields import plain_path
from dress.sources.protocol import RowError

IMAGES = "images"
NO_DIALOGUES = "records without dialogues"
ONE_SPLIT = "records"
"""Name of the rows' file where the shards have no splits."""


class Read(NamedTuple):
    """A sample, and where it stands."""

    split: str
    number: int  # in its split
    record: Record
    image: bytes | None


Track = Callable[[Sequence[Any], str], Iterable[Any]]
"""Goes through a sequence and shows how far it is: (items, what is done with them)."""


@dataclass
class Writing:
    """Where a format writes, and what it counts.

    Args:
        folder: written aside, renamed at the end.
        splits: what is exported.
        track: shows progress.
        images: whether images are written.
        on_damage: what happens at a record that cannot be read.
    """

    folder: Path
    splits: Splits
    track: Track
    images: bool = True
    on_damage: Damage = "stop"
    rows: Counter[str] = field(default_factory=Counter)
    """Rows by file."""
    left_out: list[dict[str, Any]] = field(default_factory=list)
    """Dialogues and records that are not in the export, each with a reason."""
    no_place: Counter[str] = field(default_factory=Counter)
    """What the format has no field for."""
    _files: dict[str, IO[str]] = field(default_factory=dict)
    _images: dict[str, str] = field(default_factory=dict)

    def samples(self) -> Iterator[Read]:
        """Everything, in order.

        Raises:
            RecordError: a record cannot be read, and `on_damage` is `stop`.
        """
        for split, shards in self.splits.items():
            for index in self.track(range(len(shards)), f"export {split}".strip()):
                try:
                    record, image = shards[index]
                except RecordError as error:
                    if self.on_damage == "stop":
                        raise
                    self.left_out.append({"split": split, "key": shards.where(index), "reason": str(error)})
                else:
                    yield Read(split, index, record, image)

    def leave_out(self, split: str, record: Record, dialogue: int, reason: str) -> None:
        """Note a dialogue that the format has no place for, and why."""
        self.left_out.append({"split": split, "key": record.key, "dialogue": dialogue, "reason": reason})

    def write(self, name: str, row: Any) -> None:
        """A row of a JSON-lines file; a `.json` is written as an array of rows."""
        file = self._files.get(name)
        if file is None:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            file = self._files[name] = path.open("x", encoding="utf-8", newline="\n")
        array = name.endswith(".json")
        before = ("[\n" if not self.rows[name] else ",\n") if array else ""
        file.write(before + json.dumps(row, ensure_ascii=False, allow_nan=False) + ("" if array else "\n"))
        self.rows[name] += 1

    def close(self) -> None:
        """End the arrays and close all files."""
        for name, file in self._files.items():
            if name.endswith(".json"):
                file.write("\n]\n")
            file.close()

    def image(self, record: Record, data: bytes | None) -> str | None:
        """Write the record's image once; returns its name below `images/`, None for text only.

        The name is the image's id where that is a file name, else made of the record's key. An image that
        the shard does not hold keeps its id.
        """
        if record.image is None:
            return None
        name = record.image.id
        if data is None:
            return name
        extension = image_extension(data)
        try:
            plain_path(name)
        except RowError:
            name = ""
        if "." not in Path(name).name:
            name = f"{record.key}.{extension}"
        sha256 = hashlib.sha256(data).hexdigest()
        if self._images.get(name, sha256) != sha256:  # another image of the same name
            name = f"{record.key}-{sha256[:8]}.{extension}"
        if name not in self._images and self.images:
            path = self.folder / IMAGES / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        self._images[name] = sha256
        return name


def check_place(out: Path) -> None:
    """Refuse a folder that holds something, and a link, which could not be replaced.

    Raises:
        ValueError: names it.
    """
    if out.is_symlink():
        raise ValueError(f"out={out}: expected a folder to make, got a link. Give the place itself")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out={out}: expected nothing there, got other content. Give another out=")


def split_file(split: str, extension: str) -> str:
    """The file of a split's rows."""
    return f"{split or ONE_SPLIT}.{extension}"


def answered(dialogue: Dialogue) -> list[Turn]:
    """The turns up to the first question that has no answer."""
    number = next((n for n, turn in enumerate(dialogue.turns) if turn.assistant is None), len(dialogue.turns))
    return dialogue.turns[:number]
