"""People as a rater: what they said of an answer, read out of the journal that a page wrote."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from dress.base.progress import Advance, ignore
from dress.config.names import check_name
from dress.feedback.answer_key import answer_key
from dress.rater import Images
from dress.record import TOP_RATING, Criterion, Dialogue, Feedback, MarkedSpan, Record, describe

JOURNAL = "feedback.jsonl"
"""Name of a journal in its folder."""
NOT_RATED, NO_PICTURE = "not_rated_yet", "no_picture"
"""Why an answer has no feedback of a person."""


class Word(BaseModel):
    """What one person said last of an answer, for one criterion: a line of a journal whose `kind` is `feedback`."""

    id: str
    at: str
    who: str = Field(min_length=1)
    answer: str
    criterion: Criterion
    rating: int | None = Field(default=None, ge=1, le=TOP_RATING, strict=True)
    critique: str | None = None
    refinement: str | None = None
    spans: Annotated[list[MarkedSpan], BeforeValidator(lambda spans: spans or [])] = []
    where: str = Field(exclude=True)

    @property
    def says_nothing(self) -> bool:
        """Whether it only takes back what was said before."""
        return self.rating is None and not self.spans and not _text(self.critique) and not _text(self.refinement)

    def feedback(self, answer: str) -> Feedback:
        """As feedback on the answer.

        Raises:
            ValueError: a span is not in the answer.
        """
        for span in self.spans:
            if not span.start < span.end <= len(answer):
                raise ValueError(
                    f"{self.where}: spans: expected 0 <= start < end <= {len(answer)}, the characters of the answer, "
                    f"got {span.start} and {span.end}"
                )
        return Feedback(
            criterion=self.criterion, rating=self.rating, critique=_text(self.critique),
            refinement=_text(self.refinement), annotator=HumanRater.name, spans=self.spans,
            extra={"who": self.who, "at": self.at},
        )  # fmt: skip


@dataclass(frozen=True)
class Journal:
    """What people said: by answer, for each person and criterion the last word; `torn` lines were passed over."""

    words: Mapping[str, Sequence[Word]]
    torn: int

    @property
    def fingerprint(self) -> str:
        """The sha256 of all words: where the journal lies, and what else it tells, makes no difference."""
        words = [word.model_dump() for words in self.words.values() for word in words]
        text = json.dumps(sorted(words, key=lambda word: word["id"]), ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def read_journal(path: str, who: Collection[str] = ()) -> Journal:
    """Read a journal: one JSON object a line, the last line of a person, answer and criterion holds.

    Lines of other kinds are passed over, and so is a last line that was cut while it was written. A line with an `id`
    that came before is the same line. A word that says nothing takes back what was said before.

    Args:
        path: of the file, or of its folder.
        who: whose words; empty for everybody's.

    Raises:
        FileNotFoundError: no journal there.
        ValueError: a line that is no event, names file and line; or a person of whom the journal knows nothing.
    """
    file = Path(path) / JOURNAL if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"journal={path}: expected a journal, or a folder with {JOURNAL}, found none")
    last: dict[tuple[str, str, str], Word] = {}
    ids: set[str] = set()
    lines = file.read_bytes().split(b"\n")
    torn = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            event = _event(line, f"{file}:{number}")
        except ValueError:
            if number < len(lines):
                raise
            torn += 1
            continue
        if event is not None and event.id not in ids:
            ids.add(event.id)
            last[event.who, event.answer, event.criterion] = event
    people = sorted({word.who for word in last.values()})
    for name in who:
        check_name("who", name, people, "people of the journal ({})")
    words: dict[str, list[Word]] = {}
    for word in last.values():
        if not word.says_nothing and (not who or word.who in who):
            words.setdefault(word.answer, []).append(word)
    return Journal(words, torn)


def _event(line: bytes, where: str) -> Word | None:
    """A person's word; None for an event of another kind.

    Raises:
        ValueError: neither of them; names file, line and field.
    """
    try:
        fields = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: expected JSON, got {line[:80]!r} ({error})") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("kind"), str):
        raise ValueError(f"{where}: expected an object with a kind, got {line[:80]!r}")
    if fields["kind"] != "feedback":
        return None
    try:
        return Word.model_validate({**fields, "where": where})
    except ValidationError as error:
        raise ValueError(f"{where}: {describe(error)}") from None


class HumanRater:
    """People: each has a word on an answer, or none yet.

    A word belongs to exactly one answer (`answer_key`): the same picture, and all texts up to it.

    Args:
        journal: what they said.
    """

    name = "human"

    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    def rate(
        self, items: Sequence[tuple[Record, Dialogue]], images: Images = (), progress: Advance = ignore
    ) -> list[Feedback]:
        """The lowest word on each answer; see `rate_by_each`."""
        return [words[0] for words in self.rate_by_each(items, images, progress)]

    def rate_by_each(
        self, items: Sequence[tuple[Record, Dialogue]], images: Images = (), progress: Advance = ignore
    ) -> list[list[Feedback]]:
        """Everybody's words on the last answers, for the dialogue's criterion; for all where it has none.

        The lowest rating comes first, then in order of time; `extra` holds `who` and `at`. Where nobody said
        anything there is one feedback whose `extra.failed` is `not_rated_yet`; `no_picture` where the picture that
        people saw is not there.

        Raises:
            ValueError: a span is not in its answer.
        """
        feedback = [self._words(*item, image) for item, image in zip(items, images or [None] * len(items), strict=True)]
        progress(len(items), "")
        return feedback

    def _words(self, record: Record, dialogue: Dialogue, image: bytes | None) -> list[Feedback]:
        if image is None and record.image is not None:
            return [self._failed(dialogue, NO_PICTURE)]
        said = [
            word
            for word in self.journal.words.get(answer_key(image, dialogue), ())
            if dialogue.criterion in (None, word.criterion)
        ]
        said.sort(key=lambda word: (word.rating or TOP_RATING + 1, word.at, word.who, word.criterion))
        answer = dialogue.turns[-1].assistant or ""
        return [word.feedback(answer) for word in said] or [self._failed(dialogue, NOT_RATED)]

    def _failed(self, dialogue: Dialogue, reason: str) -> Feedback:
        return Feedback(criterion=dialogue.criterion, annotator=self.name, extra={"failed": reason})


def _text(words: str | None) -> str | None:
    """Words as they are; of blanks alone there is nothing to be said."""
    return words if words is not None and words.strip() else None
