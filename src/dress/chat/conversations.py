"""What a page asks for: pictures, answers, feedback, the next of a queue. All of it goes through the journal."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from dress.chat.answers import Job
from dress.chat.pictures import Pictures
from dress.chat.queue import Item, Queue
from dress.chat.records import Talk
from dress.chat.responders import PageResponder
from dress.chat.shards import FeedbackShards
from dress.config.commands import ChatCommand
from dress.dialogue.spans import Completion
from dress.feedback.answer_key import key_of
from dress.feedback.journal import AnswerEvent, AnyEvent, FeedbackEvent, FeedbackJournal
from dress.record import CRITERIA, Dialogue, Record, Turn

PAUSE = 2.0
"""Seconds between a person's word and the shards that hold it, at least."""
LOG = logging.getLogger(__name__)


class Conversations:
    """A folder of what people say, and those who answer them.

    Args:
        out: holds the journal, pictures and shards; locked.
        settings: of drawing, and whether names are hidden.
        answering: one or two; none where a queue holds answers.
        queue: what people go through; None: they ask what they like.

    Raises:
        ValueError: the journal is damaged, or another queue's.
    """

    def __init__(
        self, out: Path, settings: ChatCommand, answering: Sequence[PageResponder], queue: Queue | None
    ) -> None:
        self.out, self.settings, self.answering, self.queue = out, settings, answering, queue
        self.pictures, self.journal, self.talk = Pictures(out), FeedbackJournal(out), Talk()
        self.shards = FeedbackShards(out, self.pictures, self._record)
        for event in self.journal.events:
            self.talk.add(event)
        self.jobs: dict[str, Job] = {}
        self._changed, self._ended = threading.Event(), threading.Event()
        self._writer = threading.Thread(target=self._write_shards_when_changed, name="shards", daemon=True)
        if self.journal.events:
            self.shards.write(self.journal.events)

    def __enter__(self) -> Self:
        self._writer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._changed.set()
        self._writer.join()
        if self.journal.events:
            self.shards.write(self.journal.events)
        self.journal.close()

    # --- answers ---

    def sides(self, conversation: str) -> list[PageResponder]:
        """Who answers on the left and on the right; where names are hidden each conversation draws that."""
        order = list(self.answering)
        if self.settings.blind and random.Random(f"{self.settings.seed} {conversation}").random() < 0.5:
            order.reverse()
        return order

    def ask(
        self, job: str, responder: PageResponder, dialogue: Dialogue, picture: str | None, before: str | None,
        condition: str | None, who: str, place: Item | None = None,
    ) -> Job:  # fmt: skip
        """Begin an answer, or find the one that was begun under this name.

        Args:
            job: name of the answer on its way.
            responder: who answers.
            dialogue: its last turn is open.
            picture: hash of its picture.
            before: name of the answer before.
            condition: one of the responder's; None: its own.
            who: asks.
            place: in the queue.
        """
        if job in self.jobs:
            return self.jobs[job]
        data = self.pictures.read(picture)

        async def finish(whole: Completion) -> dict[str, object]:
            turn = dialogue.turns[-1].model_copy(update={"assistant": str(whole)})
            name = key_of(picture, dialogue.model_copy(update={"turns": [*dialogue.turns[:-1], turn]}))
            event = AnswerEvent(
                id=job, at=now(), who=who, answer=name, before=before, picture=picture, system=dialogue.system,
                question=turn.user, text=str(whole), responder=responder.name, condition=condition,
                finish_reason=whole.finish_reason, record=None if place is None else place.record,
                dialogue=None if place is None else place.dialogue,
            )  # fmt: skip
            self.add(event)
            return {"answer": name, "text": str(whole), "finish_reason": whole.finish_reason}

        self.jobs[job] = Job()
        self.jobs[job].start(responder.answer(dialogue, data, condition, self.settings), finish)
        return self.jobs[job]

    def dialogue(self, before: str | None, question: str) -> Dialogue:
        """The conversation up to an answer, and the next question.

        Raises:
            ValueError: no such answer.
        """
        if before is not None and before not in self.talk.answers:
            raise ValueError(f"before: expected the name of an answer, got {before}")
        path = [] if before is None else self.talk.path(before)
        turns = [Turn(user=one.question, assistant=one.text) for one in path]
        return Dialogue(system=path[0].system if path else None, turns=[*turns, Turn(user=question)])

    # --- what people say ---

    def add(self, event: AnyEvent) -> bool:
        """Write it down; whether it is new.

        Raises:
            ValueError: it is about an answer that nobody was shown, or marks what is outside of it.
            JournalFull: no room for it; nothing of it is there.
        """
        if not isinstance(event, AnswerEvent):
            if event.answer not in self.talk.answers:
                raise ValueError(f"answer: expected the name of an answer that was shown, got {event.answer}")
            length = len(self.talk.answers[event.answer].text)
            for span in event.spans if isinstance(event, FeedbackEvent) else []:
                if not span.start < span.end <= length:
                    raise ValueError(f"spans: expected 0 <= start < end <= {length}, got {span.start} and {span.end}")
        new = self.journal.append(event)
        if new:
            self.talk.add(event)
            self._changed.set()
        return new

    def feedback(self, answer: str, who: str) -> dict[str, Any]:
        """What a person has said of an answer, by criterion, and their better answer."""
        latest = self.talk.latest.get(answer, {})
        edit = self.talk.edits.get(answer, {}).get(who)
        return {
            "feedback": {
                criterion: one.model_dump(include={"rating", "critique", "refinement", "spans"})
                for criterion in CRITERIA if (one := latest.get((who, criterion))) is not None
            },
            "edit": None if edit is None else edit.text,
        }  # fmt: skip

    # --- shards ---

    def _record(self, key: str) -> Record:
        if self.queue is None:
            raise ValueError(f"{self.journal.file}: names the record {key} of a queue: give the same queue=… again")
        return self.queue.record(key)

    def _write_shards_when_changed(self) -> None:
        while self._changed.wait() and not self._ended.wait(PAUSE):
            self._changed.clear()
            try:
                self.shards.write(list(self.journal.events))
            except Exception as error:  # the journal has it; the next word tries again
                LOG.warning(f"{self.out}: the shards could not be written: {error}")


def now() -> str:
    """The time, as the journal has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
