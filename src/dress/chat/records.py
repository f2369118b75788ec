"""What a journal holds, as records: a pure function of its lines."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from dress.feedback.human import HUMAN, feedback_of
from dress.feedback.journal import AnswerEvent, AnyEvent, EditEvent, FeedbackEvent
from dress.record import CRITERIA, TOP_RATING, Criterion, Dialogue, Feedback, ImageRef, Record, Turn

NOBODY = "none"
"""Annotator of an answer that nobody judged by a criterion: such an answer is no model for others."""
SOURCE = "chat"
EDITED_FROM = "edited_from"
"""In the provenance of an answer that a person wrote: the name of the one before."""

FindRecord = Callable[[str], Record]
"""The record of a queue by its key."""


@dataclass
class Talk:
    """The answers of a journal as trees: each knows which it follows.

    Attributes:
        answers: by name; of equal ones the first.
        latest: by name of an answer, the last feedback of each person by criterion.
        edits: by name of an answer, the last better one of each person.
        shown: by record, dialogue and turn of a queue, the name of each responder's answer.
    """

    answers: dict[str, AnswerEvent] = field(default_factory=dict)
    latest: dict[str, dict[tuple[str, Criterion], FeedbackEvent]] = field(default_factory=dict)
    edits: dict[str, dict[str, EditEvent]] = field(default_factory=dict)
    shown: dict[tuple[str, int, int], dict[str, str]] = field(default_factory=dict)

    def add(self, event: AnyEvent) -> None:
        """Take in the next line."""
        if isinstance(event, AnswerEvent):
            self.answers.setdefault(event.answer, event)
            if event.record is not None and event.dialogue is not None:
                place = (event.record, event.dialogue, len(self.path(event.answer)) - 1)
                self.shown.setdefault(place, {})[event.responder] = event.answer
        elif isinstance(event, FeedbackEvent):
            self.latest.setdefault(event.answer, {})[event.who, event.criterion] = event
        else:
            self.edits.setdefault(event.answer, {})[event.who] = event

    def path(self, answer: str) -> list[AnswerEvent]:
        """The answers from the first of a conversation to this one."""
        names: list[AnswerEvent] = []
        name: str | None = answer
        while name is not None:
            names.append(self.answers[name])
            name = names[-1].before
        return names[::-1]

    def feedback(self, answer: str, criterion: Criterion) -> list[Feedback]:
        """What people said of an answer by a criterion, in the order of their names."""
        every = [one for (_, about), one in self.latest.get(answer, {}).items() if about == criterion]
        text = self.answers[answer].text
        return [feedback_of(one, text) for one in sorted(every, key=lambda one: one.who) if not one.says_nothing]


class JudgedRecord(NamedTuple):
    """A record that somebody said something about.

    Attributes:
        place: among all pictures and first questions, in the order of their first answers; it never changes.
        record: with what was said.
        picture: SHA-256 of its file.
    """

    place: int
    record: Record
    picture: str | None


def records(events: Iterable[AnyEvent], find: FindRecord) -> Iterator[JudgedRecord]:
    """A record for each picture (and each first question without one) that somebody said something about, in the order
    of the first answers.

    For each criterion there is a dialogue of its own, up to the last answer that somebody judged by it. A better answer
    is the reference of the dialogues that begin with the answer it stands for; in the place of a later answer it ends a
    dialogue of its own.

    Args:
        events: lines of a journal.
        find: the records that a queue asked about.
    """
    talk = Talk()
    for event in events:
        talk.add(event)
    groups: dict[str, list[AnswerEvent]] = {}
    for one in talk.answers.values():
        first = talk.path(one.answer)[0]
        groups.setdefault(first.record or first.picture or _question(first), []).append(one)
    for place, answers in enumerate(groups.values()):
        dialogues = [dialogue for criterion in CRITERIA for dialogue in _judged(talk, answers, criterion)]
        dialogues += _edited(talk, answers)
        if not dialogues:
            continue
        first = answers[0]
        if first.record is not None:
            record = find(first.record).model_copy(update={"dialogues": dialogues})
        else:
            image = None if first.picture is None else ImageRef(id=first.picture, sha256=first.picture)
            name = (first.picture or _question(first))[:24]
            record = Record(key=f"{SOURCE}-{name}", source=SOURCE, image=image, dialogues=dialogues)
        yield JudgedRecord(place, record, first.picture)


def _question(first: AnswerEvent) -> str:
    """The name of a first question without a picture: answers of several responders to it belong together."""
    return hashlib.sha256(json.dumps([first.system, first.question]).encode()).hexdigest()


def _judged(talk: Talk, answers: list[AnswerEvent], criterion: Criterion) -> Iterator[Dialogue]:
    """A dialogue for each answer that was judged by a criterion and that no longer one goes through."""
    judged = [one for one in answers if talk.feedback(one.answer, criterion)]
    passed = {name.answer for one in judged for name in talk.path(one.answer)[:-1]}
    written: set[str] = set()
    for last in judged:
        if last.answer in passed:
            continue
        path = talk.path(last.answer)
        reference = _reference(talk, path[0])
        turns = [_turn(talk, one, criterion, one.answer not in written) for one in path]
        written |= {one.answer for one in path}
        yield Dialogue(criterion=criterion, system=path[0].system, reference=reference, turns=turns)


def _turn(talk: Talk, one: AnswerEvent, criterion: Criterion, new: bool) -> Turn:
    """An answer with what was said of it, unless another dialogue says that already."""
    feedback = talk.feedback(one.answer, criterion) if new else []
    provenance = {"responder": one.responder, "condition": one.condition, "finish_reason": one.finish_reason}
    return Turn(
        user=one.question,
        assistant=one.text,
        feedback=feedback or [Feedback(criterion=criterion, annotator=NOBODY)],
        provenance={name: value for name, value in provenance.items() if value is not None},
    )


def _reference(talk: Talk, first: AnswerEvent) -> str | None:
    """The better answer to a first question: of several people's the last one."""
    every = [one for one in talk.edits.get(first.answer, {}).values() if one.text is not None]
    return max(every, key=lambda one: (one.at, one.id)).text if every else None


def _edited(talk: Talk, answers: list[AnswerEvent]) -> Iterator[Dialogue]:
    """A dialogue for each better answer that is not a reference of others: to a later question, or to one that nobody
    judged."""
    for one in answers:
        path = talk.path(one.answer)
        judged = any(talk.feedback(path[0].answer, criterion) for criterion in CRITERIA)
        for who, edit in talk.edits.get(one.answer, {}).items():
            if edit.text is None or (len(path) == 1 and judged):
                continue
            turns = [_turn(talk, before, "helpfulness", False) for before in path[:-1]]
            better = Feedback(
                criterion="helpfulness", rating=TOP_RATING, annotator=HUMAN, extra={"who": who, "at": edit.at}
            )
            provenance = {"responder": HUMAN, EDITED_FROM: one.answer}
            turns.append(Turn(user=one.question, assistant=edit.text, feedback=[better], provenance=provenance))
            yield Dialogue(
                criterion="helpfulness", system=path[0].system, turns=turns,
                reference=edit.text if len(path) == 1 else _reference(talk, path[0]),
            )  # fmt: skip
