"""What a page asks for: pictures, answers, feedback, the next of a queue. All of it goes through the journal."""

from __future__ import annotations

import hashlib
import logging
import random
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from dress.base.files import image_extension, write_aside
from dress.chat.answers import Job
from dress.chat.queue import Item, Queue
from dress.chat.records import Talk, records
from dress.chat.responders import PageResponder
from dress.config.commands import ChatCommand
from dress.data.images import animated, header, open_image
from dress.data.index_file import INDEX
from dress.data.shards import Sample, Shards, write_shards
from dress.dialogue.spans import Completion
from dress.feedback.answer_key import key_of
from dress.feedback.journal import Answered, Edited, Journal, Said
from dress.feedback.lvlm_nlf import write_lvlm_nlf
from dress.record import CRITERIA, Dialogue, Record, Turn

IMAGES = "images"
"""Folder of the pictures, beside the journal."""
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
        (out / IMAGES).mkdir(exist_ok=True)
        self.journal, self.talk = Journal(out), Talk()
        for event in self.journal.events:
            self.talk.add(event)
        self.jobs: dict[str, Job] = {}
        self._changed, self._ended = threading.Event(), threading.Event()
        self._writer = threading.Thread(target=self._write_shards_when_changed, name="shards", daemon=True)
        if self.journal.events:
            self.write_shards()

    def __enter__(self) -> Self:
        self._writer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._changed.set()
        self._writer.join()
        if self.journal.events:
            self.write_shards()
        self.journal.close()

    # --- pictures ---

    def add_picture(self, data: bytes) -> dict[str, Any]:
        """Keep a picture under its hash; what the page is told of it.

        Raises:
            ImageError: no picture, or too large, or damaged.
            OSError: no room for it.
        """
        animation = animated(header(data, "picture"))
        width, height = open_image(data, "picture").size
        return {"picture": self.keep(data), "width": width, "height": height, "animated": animation}

    def picture(self, name: str) -> Path | None:
        """The file of a picture, by its hash."""
        return next(iter(sorted((self.out / IMAGES).glob(f"{name}.*"))), None)

    def keep(self, data: bytes) -> str:
        """Write a picture's file under its hash, which is returned."""
        name = hashlib.sha256(data).hexdigest()
        if self.picture(name) is None:
            with write_aside(self.out / IMAGES / f"{name}.{image_extension(data)}") as aside:
                aside.write_bytes(data)
        return name

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
        file = None if picture is None else self.picture(picture)
        data = None if file is None else file.read_bytes()

        async def finish(whole: Completion) -> dict[str, object]:
            turn = dialogue.turns[-1].model_copy(update={"assistant": str(whole)})
            name = key_of(picture, dialogue.model_copy(update={"turns": [*dialogue.turns[:-1], turn]}))
            event = Answered(
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

    def add(self, event: Answered | Said | Edited) -> bool:
        """Write it down; whether it is new.

        Raises:
            ValueError: it is about an answer that nobody was shown, or marks what is outside of it.
            JournalFull: no room for it; nothing of it is there.
        """
        if not isinstance(event, Answered):
            if event.answer not in self.talk.answers:
                raise ValueError(f"answer: expected the name of an answer that was shown, got {event.answer}")
            length = len(self.talk.answers[event.answer].text)
            for span in event.spans if isinstance(event, Said) else []:
                if not span.start < span.end <= length:
                    raise ValueError(f"spans: expected 0 <= start < end <= {length}, got {span.start} and {span.end}")
        new = self.journal.append(event)
        if new:
            self.talk.add(event)
            self._changed.set()
        return new

    def said(self, answer: str, who: str) -> dict[str, Any]:
        """What a person has said of an answer, by criterion, and their better answer."""
        said = self.talk.said.get(answer, {})
        edit = self.talk.edits.get(answer, {}).get(who)
        return {
            "feedback": {
                criterion: one.model_dump(include={"rating", "critique", "refinement", "spans"})
                for criterion in CRITERIA if (one := said.get((who, criterion))) is not None
            },
            "edit": None if edit is None else edit.text,
        }  # fmt: skip

    # --- shards ---

    def samples(self) -> Iterator[Sample]:
        """The records of the journal, with their pictures."""
        for record, picture in records(list(self.journal.events), self._record):
            file = None if picture is None else self.picture(picture)
            yield record, None if file is None else file.read_bytes()

    def write_shards(self) -> int:
        """Make the shards and the rows of LVLM_NLF anew; how many records there are."""
        (self.out / INDEX).unlink(missing_ok=True)  # it is about the shards before
        old = set(self.out.glob("shard-*.tar"))
        number = write_shards(self.out, self.samples())
        for file in sorted(old)[-(-number // 1000) :]:
            file.unlink()
        if number:
            write_lvlm_nlf(self.out / "lvlm_nlf", Shards(self.out))
        return number

    def _record(self, key: str) -> Record:
        if self.queue is None:
            raise ValueError(f"{self.journal.file}: names the record {key} of a queue: give the same queue=… again")
        return self.queue.record(key)

    def _write_shards_when_changed(self) -> None:
        while self._changed.wait() and not self._ended.wait(PAUSE):
            self._changed.clear()
            try:
                self.write_shards()
            except Exception as error:  # the journal has it; the next word tries again
                LOG.warning(f"{self.out}: the shards could not be written: {error}")


def now() -> str:
    """The time, as the journal has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
