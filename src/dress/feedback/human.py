"""People as a rater: what they said of an answer, read out of the journal that a page wrote."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dress.base.progress import Advance, ignore
from dress.config.names import check_name
from dress.feedback.answer_key import answer_key
from dress.feedback.journal import JOURNAL, FeedbackEvent, read_events, torn
from dress.rater import Images
from dress.record import TOP_RATING, Dialogue, Feedback, Record

HUMAN = "human"
"""Annotator of what people said."""
NOT_RATED, NO_PICTURE = "not_rated_yet", "no_picture"
"""Why an answer has no feedback of a person."""


def feedback_of(word: FeedbackEvent, answer: str) -> Feedback:
    """A person's word as feedback on the answer.

    Raises:
        ValueError: a span is not in the answer.
    """
    for span in word.spans:
        if not span.start < span.end <= len(answer):
            raise ValueError(
                f"journal: {word.id}: spans: expected 0 <= start < end <= {len(answer)}, the characters of the answer, "
                f"got {span.start} and {span.end}"
            )
    return Feedback(
        criterion=word.criterion, rating=word.rating, critique=word.critique, refinement=word.refinement,
        annotator=HUMAN, spans=word.spans, extra={"who": word.who, "at": word.at},
    )  # fmt: skip


@dataclass(frozen=True)
class Words:
    """What people said: by answer, for each person and criterion the last word; `torn` lines were passed over."""

    by_answer: Mapping[str, Sequence[FeedbackEvent]]
    torn: bool

    @property
    def fingerprint(self) -> str:
        """The sha256 of all words: where the journal lies, and what else it tells, makes no difference."""
        words = [word.model_dump() for words in self.by_answer.values() for word in words]
        text = json.dumps(sorted(words, key=lambda word: word["id"]), ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def read_words(path: str, who: Collection[str] = ()) -> Words:
    """What people said, as a journal holds it: the last line of a person, answer and criterion holds.

    A last line that was cut while it was written is passed over. A word that says nothing takes back what was said
    before.

    Args:
        path: of the journal, or of its folder.
        who: whose words; empty for everybody's.

    Raises:
        FileNotFoundError: no journal there.
        ValueError: a line that is no event, names file and line; or a person of whom the journal knows nothing.
    """
    file = Path(path) / JOURNAL if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"journal={path}: expected a journal, or a folder with {JOURNAL}, found none")
    last = {
        (event.who, event.answer, event.criterion): event
        for event in read_events(file)
        if isinstance(event, FeedbackEvent)
    }
    people = sorted({word.who for word in last.values()})
    for name in who:
        check_name("who", name, people, "people of the journal ({})")
    words: dict[str, list[FeedbackEvent]] = {}
    for word in last.values():
        if not word.says_nothing and (not who or word.who in who):
            words.setdefault(word.answer, []).append(word)
    return Words(words, torn(file))


class HumanRater:
    """People: each has a word on an answer, or none yet.

    A word belongs to exactly one answer (`answer_key`): the same picture, and all texts up to it.

    Args:
        words: what they said.
    """

    name = HUMAN

    def __init__(self, words: Words) -> None:
        self.words = words

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
            for word in self.words.by_answer.get(answer_key(image, dialogue), ())
            if dialogue.criterion in (None, word.criterion)
        ]
        said.sort(key=lambda word: (word.rating or TOP_RATING + 1, word.at, word.who, word.criterion))
        answer = dialogue.turns[-1].assistant or ""
        return [feedback_of(word, answer) for word in said] or [self._failed(dialogue, NOT_RATED)]

    def _failed(self, dialogue: Dialogue, reason: str) -> Feedback:
        return Feedback(criterion=dialogue.criterion, annotator=self.name, extra={"failed": reason})
