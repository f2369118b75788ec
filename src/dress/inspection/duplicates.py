"""What stands more than once in a split, and images that are missing."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from dress.data.images import MAX_ASPECT, NARROW, ImageError, animated, header
from dress.inspection.data_set import Item
from dress.inspection.texts import digest, image_name, normalised

EXAMPLES = 20


def place(item: Item) -> str:
    """Split and key."""
    return f"{item.split}/{item.record.key}".strip("/")


@dataclass
class Findings:
    """Counts of what is wrong or repeated, each with the first examples.

    Keys of `counts`: `image missing` (named, but no bytes), `image unreadable`, `image too narrow` (longer side ÷
    shorter side above `max_aspect`), `image animated` (its first frame is used), `image differs` (from the
    record's sha256), `key twice`, `same image` (bytes under another key), `same question, same image`
    (beyond the first dialogue; sampled answers to one question count here), `same question and answers`,
    `nearly the same question` (differs from an earlier one in case, punctuation or spaces only).
    """

    max_aspect: float = MAX_ASPECT
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    images: dict[str, set[bytes]] = field(default_factory=dict)
    """Image names by split."""
    _keys: set[bytes] = field(default_factory=set)
    _bytes: dict[bytes, str] = field(default_factory=dict)
    _questions: set[bytes] = field(default_factory=set)
    _answers: set[bytes] = field(default_factory=set)
    _spelled: dict[bytes, set[bytes]] = field(default_factory=dict)

    def add(self, item: Item, has_images: bool) -> str | None:
        """Look at a record; returns the sha256 of its image, where there is one."""
        split, record = item.split, item.record
        if (key := digest(split, record.key)) in self._keys:
            self._report("key twice", place(item))
        self._keys.add(key)
        sha256 = None
        if record.image is not None:
            self.images.setdefault(split, set()).add(digest(image_name(record.image)))
            if item.image is not None:
                sha256 = self._image(item, item.image)
            elif has_images:
                self._report("image missing", f"{place(item)}: {record.image.id}")
        about = sha256 or (image_name(record.image) if record.image is not None else record.key)
        for number, dialogue in enumerate(record.dialogues):
            texts = [text for turn in dialogue.turns for text in (turn.user, turn.assistant or "")]
            self._repeated(f"{place(item)}/{number}", (split, about), texts)
        return sha256

    def overlap(self, split: str) -> dict[str, int]:
        """How many images of a split stand in each other split too."""
        mine = self.images.get(split, set())
        return {other: len(mine & theirs) for other, theirs in self.images.items() if other != split}

    def to_json(self) -> dict[str, Any]:
        """What was found, with its number and where it was first, as plain data."""
        return {what: {"number": number, "first": self.examples[what]} for what, number in sorted(self.counts.items())}

    def _image(self, item: Item, data: bytes) -> str:
        where, record = place(item), item.record
        sha256 = hashlib.sha256(data).hexdigest()
        if record.image is not None and record.image.sha256 not in (None, sha256):
            self._report("image differs", where)
        first = self._bytes.setdefault(digest(item.split, sha256), record.key)
        if first != record.key:
            self._report("same image", f"{where} and {first}")
        try:
            if animated(header(data, where, self.max_aspect)):
                self._report("image animated", where)
        except ImageError as error:
            self._report(NARROW if error.reason == NARROW else "image unreadable", str(error))
        return sha256

    def _repeated(self, where: str, about: tuple[str, str], texts: list[str]) -> None:
        question, answer = texts[0], digest(*about, *texts)
        question_digest = digest(*about, question)
        if question_digest in self._questions:
            self._report("same question, same image", f"{where}: {question:.100}")
            if answer in self._answers:
                self._report("same question and answers", f"{where}: {question:.100}")
        self._questions.add(question_digest)
        self._answers.add(answer)
        words = normalised(question)
        spellings = self._spelled.setdefault(digest(about[0], words), set())
        spelling = digest(question)
        if words and spellings and spelling not in spellings:
            self._report("nearly the same question", f"{where}: {question:.100}")
        spellings.add(spelling)

    def _report(self, what: str, where: str) -> None:
        self.counts[what] += 1
        examples = self.examples.setdefault(what, [])
        if len(examples) < EXAMPLES:
            examples.append(where)
