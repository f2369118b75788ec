"""Leakage: which dialogues of a set stand in another one, and the figures of those that do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from dress.data.counts import Counts
from dress.inspection.data_set import Item
from dress.inspection.texts import digest, image_name, normalised, questions
from dress.record import Dialogue

By = Literal["text", "image", "text_and_image", "any"]
WAYS = {
    "verbatim": "same question, letter for letter",
    "normalised": "same question, case, punctuation and spaces aside",
    "image": "same image (by name or bytes)",
    "text_and_image": "same question on the same image",
}
COUNTS_AS: dict[By, frozenset[str]] = {
    "text": frozenset({"verbatim", "normalised"}),
    "image": frozenset({"image"}),
    "text_and_image": frozenset({"text_and_image"}),
    "any": frozenset(WAYS),
}


@dataclass
class Known:
    """Questions and images of the other set.

    A question is any text of the user that is not advice on the answer before.
    """

    dialogues: int = 0
    verbatim: set[bytes] = field(default_factory=set)
    normalised: set[bytes] = field(default_factory=set)
    images: set[bytes] = field(default_factory=set)
    asked: set[bytes] = field(default_factory=set)

    def add(self, item: Item, sha256: str | None) -> None:
        """Take in a record; `sha256` is of its image's bytes."""
        images = _images(item, sha256)
        self.images |= images
        for dialogue in item.record.dialogues:
            self.dialogues += 1
            for question in questions(dialogue):
                self.verbatim.add(digest(question))
                words = normalised(question)
                if words:
                    self.normalised.add(digest(words))
                    self.asked |= {digest(image.hex(), words) for image in images}

    def ways(self, item: Item, dialogue: Dialogue | None, sha256: str | None) -> list[str]:
        """How a dialogue (or, without one, a record) stands in the other set, in the order of `WAYS`."""
        images = _images(item, sha256)
        ways_of_leaking: set[str] = {"image"} if images & self.images else set()
        for question in questions(dialogue) if dialogue else ():
            words = normalised(question)
            if digest(question) in self.verbatim:
                ways_of_leaking.add("verbatim")
            if words and digest(words) in self.normalised:
                ways_of_leaking.add("normalised")
            if words and any(digest(image.hex(), words) in self.asked for image in images):
                ways_of_leaking.add("text_and_image")
        return [way for way in WAYS if way in ways_of_leaking]


@dataclass
class Leakage:
    """Figures of all dialogues, of the clean and of the leaked ones, and the list of both."""

    known: Known
    by: By = "text"
    ways: Counter[str] = field(default_factory=Counter)
    all: Counts = field(default_factory=Counts)
    clean: Counts = field(default_factory=Counts)
    leaked: Counts = field(default_factory=Counts)
    rows: list[dict[str, Any]] = field(default_factory=list)
    """One for each dialogue: `key, dialogue, image_id, user, leak` (the ways, empty for a clean one)."""

    def add(self, item: Item, sha256: str | None) -> None:
        """Sort a record's dialogues; a record without dialogues counts by its image."""
        record = item.record
        self.all.add(record)
        sides: set[bool] = set()
        for number, dialogue in enumerate(record.dialogues):
            ways = self.known.ways(item, dialogue, sha256)
            self.ways.update(ways)
            leaked = self._counts(ways)
            sides.add(leaked)
            (self.leaked if leaked else self.clean).add_dialogue(dialogue)
            self.rows.append({
                "split": item.split, "key": record.key, "dialogue": number,
                "image_id": record.image.id if record.image else None,
                "user": dialogue.turns[0].user, "leak": ways, "leaked": leaked,
            })  # fmt: skip
        for leaked in sides or {self._counts(self.known.ways(item, None, sha256))}:
            (self.leaked if leaked else self.clean).add_about(record)

    def listed(self, leaked: bool) -> Iterable[dict[str, Any]]:
        """The leaked dialogues, or the clean ones."""
        return ({k: v for k, v in row.items() if k != "leaked"} for row in self.rows if row["leaked"] == leaked)

    def to_json(self) -> dict[str, Any]:
        """All figures as plain data."""
        return {
            "by": self.by, "dialogues": self.all.dialogues, "known_dialogues": self.known.dialogues,
            "ways": {way: self.ways[way] for way in WAYS}, "leaked": self.leaked.dialogues,
            "figures": {name: getattr(self, name).to_json() for name in ("all", "clean", "leaked")},
        }  # fmt: skip

    def _counts(self, ways: list[str]) -> bool:
        return bool(COUNTS_AS[self.by] & set(ways))


def _images(item: Item, sha256: str | None) -> set[bytes]:
    image = item.record.image
    if image is None:
        return set()
    by_bytes = sha256 or image.sha256
    return {digest("name", image_name(image))} | ({digest("bytes", by_bytes)} if by_bytes else set())
