"""A queue as people go through it: what is next, what is done, and how far they agree."""

from __future__ import annotations

import hashlib
from typing import Any

from dress.chat.conversations import Conversations, now
from dress.chat.queue import Item, Queue
from dress.chat.responders import PageResponder
from dress.feedback.answer_key import key_of
from dress.feedback.journal import AnswerEvent
from dress.record import CRITERIA

QUEUE = "queue"
"""Who showed an answer that stood in a set."""


class Worklist:
    """Shows the items of a queue, each with the same answers to everybody.

    Args:
        conversations: whose journal holds what was shown and said.
        queue: its items.
    """

    def __init__(self, conversations: Conversations, queue: Queue) -> None:
        self.conversations, self.queue = conversations, queue

    def next(self, who: str, after: int) -> int | None:
        """Number of the next item that a person has not rated, after one and then from the first; None: all are."""
        total = len(self.queue.items)
        order = [(after + 1 + step) % total for step in range(total)]
        return next((number for number in order if not self._done(self.queue.items[number], who)), None)

    def done(self, who: str) -> int:
        """How many items a person has rated."""
        return sum(self._done(item, who) for item in self.queue.items)

    def show(self, number: int, who: str) -> dict[str, Any]:
        """What the page shows of an item; answers that nobody has given yet are begun.

        Raises:
            ValueError: no such item, or its picture cannot be kept.
        """
        if not 0 <= number < len(self.queue.items):
            raise ValueError(f"number: expected 0 to {len(self.queue.items) - 1}, got {number}")
        item = self.queue.items[number]
        data = self.queue.picture(item)
        picture = None if data is None else self.conversations.pictures.keep(data)
        dialogue = self.queue.dialogue(item)
        answers = [self._stored(item, picture)] if item.turn is not None else self._asked(item, picture)
        return {
            "number": number, "total": len(self.queue.items), "done": self.done(who), "criterion": item.criterion,
            "picture": picture, "record": item.record, "dialogue": item.dialogue, "answers": answers,
            "turns": [[turn.user, turn.assistant] for turn in dialogue.turns[:-1]],
            "question": dialogue.turns[-1].user,
        }  # fmt: skip

    def _done(self, item: Item, who: str) -> bool:
        names = self._names(item)
        criteria = CRITERIA if item.criterion is None else (item.criterion,)

        def judged(name: str) -> bool:
            latest = self.conversations.talk.latest.get(name, {})
            events = (latest.get((who, criterion)) for criterion in criteria)
            return any(event is not None and not event.says_nothing for event in events)

        return bool(names) and all(map(judged, names))

    def _names(self, item: Item) -> list[str]:
        """The answers of an item; none while one of them is missing."""
        shown = self.conversations.talk.shown.get((item.record, item.dialogue, item.turn or 0), {})
        if item.turn is not None:
            return list(shown.values())
        names = [shown.get(one.name) for one in self.conversations.answering]
        return [] if None in names else [name for name in names if name is not None]

    def _stored(self, item: Item, picture: str | None) -> dict[str, Any]:
        """An answer that stands in the set, written down with those before it when it is first shown."""
        dialogue, before = self.queue.dialogue(item), None
        for number, turn in enumerate(dialogue.turns):
            name = key_of(picture, dialogue.model_copy(update={"turns": dialogue.turns[: number + 1]}))
            event = AnswerEvent(
                id=_id(item.record, item.dialogue, number, "stored"), at=now(), who=QUEUE, answer=name, before=before,
                picture=picture, system=dialogue.system, question=turn.user, text=turn.assistant or "",
                responder=str(turn.provenance.get("responder", QUEUE)), record=item.record, dialogue=item.dialogue,
                finish_reason=turn.provenance.get("finish_reason"), condition=turn.provenance.get("condition"),
            )  # fmt: skip
            self.conversations.add(event)
            before = name
        return {"answer": before, "text": dialogue.turns[-1].assistant, "name": QUEUE}

    def _asked(self, item: Item, picture: str | None) -> list[dict[str, Any]]:
        sides = self.conversations.sides(f"{item.record}/{item.dialogue}")
        blind = self.conversations.settings.blind
        return [
            self._answer(item, picture, one) | {"name": f"answer {number}" if blind else one.name}
            for number, one in enumerate(sides, 1)
        ]

    def _answer(self, item: Item, picture: str | None, responder: PageResponder) -> dict[str, Any]:
        """An answer that was given, or the one that is being given: the same for everybody."""
        name = self.conversations.talk.shown.get((item.record, item.dialogue, 0), {}).get(responder.name)
        if name is not None:
            return {"answer": name, "text": self.conversations.talk.answers[name].text}
        identity = _id(item.record, item.dialogue, 0, responder.name)
        job = self.conversations.jobs.get(identity)
        if job is None or (job.end is not None and "failed" in job.end):
            self.conversations.jobs.pop(identity, None)
            self.conversations.ask(identity, responder, self.queue.dialogue(item), picture, None, None, QUEUE, item)
        return {"job": identity}


def _id(record: str, dialogue: int, turn: int, responder: str) -> str:
    """Of what is shown of an item, equal whoever asks for it."""
    return hashlib.sha256(f"{record}/{dialogue}/{turn}/{responder}".encode()).hexdigest()[:40]
