"""The journal: one JSON line for each thing that a person said or was shown, written once and never changed.

A line counts once it is on the disk. A process that is killed within one leaves a torn line at the end, which is put
aside when the journal is opened again; whoever sent it was told nothing and sends it anew. Lines have ids, so what is
sent twice stands there once.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from dress.record import TOP_RATING, Criterion, MarkedSpan, describe

JOURNAL = "feedback.jsonl"
"""In the folder of what people said."""
TORN = "torn.txt"
"""Beside it: last lines that were not whole."""
LONGEST = 100_000
"""Characters of a text (ours)."""

Text = Annotated[str, Field(min_length=1, max_length=LONGEST)]
Words = Annotated[
    Text | None, BeforeValidator(lambda text: None if isinstance(text, str) and not text.strip() else text)
]
"""What a person wrote, as it is; blanks alone are nothing."""
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]
Key = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Who = Annotated[str, Field(min_length=1, max_length=80, pattern=r"^\S(.*\S)?$")]


class Event(BaseModel):
    """What all lines have: `id` is made by whoever sends it, `at` is UTC."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    id: Id
    at: str = ""
    who: Who


class AnswerEvent(Event):
    """An answer that was shown.

    Attributes:
        answer: its name (`feedback.answer_key`).
        before: name of the answer that it follows; None: of none.
        picture: SHA-256 of the image's file.
        record, dialogue: of a queue: key of the record, and number of the dialogue in it, that were asked.
    """

    kind: Literal["answer"] = "answer"
    answer: Key
    before: Key | None = None
    picture: Key | None = None
    system: str | None = None
    question: str
    text: str
    responder: str
    condition: str | None = None
    finish_reason: str | None = None
    record: str | None = None
    dialogue: int | None = None


class FeedbackEvent(Event):
    """A person's feedback on an answer for one criterion; the last of a person for it counts."""

    kind: Literal["feedback"] = "feedback"
    answer: Key
    criterion: Criterion
    rating: Annotated[int, Field(ge=1, le=TOP_RATING, strict=True)] | None = None
    critique: Words = None
    refinement: Words = None
    spans: list[MarkedSpan] = Field(default_factory=list)

    @property
    def says_nothing(self) -> bool:
        """Whether it only takes back what was said before."""
        return not (self.rating or self.critique or self.refinement or self.spans)


class EditEvent(Event):
    """A better answer in the place of one; None takes an earlier one back."""

    kind: Literal["edit"] = "edit"
    answer: Key
    text: Words


AnyEvent = AnswerEvent | FeedbackEvent | EditEvent
KINDS: dict[str, type[AnyEvent]] = {"answer": AnswerEvent, "feedback": FeedbackEvent, "edit": EditEvent}


class JournalFull(OSError):
    """A line could not be written whole; none of it is there."""


def read_events(file: Path) -> Iterator[AnyEvent]:
    """The whole lines of a journal, in order; what is torn at its end, and what newer pages note, is passed over.

    A line with an id that came before is the same line.

    Raises:
        ValueError: another line that is none; names file, line and field.
        OSError: it cannot be read.
    """
    ids: set[str] = set()
    for number, line in enumerate(
        file.read_bytes().split(b"\n")[:-1], 1
    ):  # behind the last line feed: nothing, or torn
        if line.strip() and (event := _event(line, f"{file}:{number}")) is not None and event.id not in ids:
            ids.add(event.id)
            yield event


def _event(line: bytes, where: str) -> AnyEvent | None:
    try:
        fields = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: expected JSON, got {line[:80]!r} ({error})") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("kind"), str):
        raise ValueError(f"{where}: expected an object with a kind, got {line[:80]!r}")
    kind = KINDS.get(fields["kind"])
    try:
        return None if kind is None else kind.model_validate(fields)
    except ValidationError as error:
        raise ValueError(f"{where}: {describe(error)}") from None


def torn(file: Path) -> bool:
    """Whether a journal's last line was cut while it was written."""
    return not file.read_bytes().endswith(b"\n") and file.stat().st_size > 0


class FeedbackJournal:
    """A journal that is written; its folder must be locked.

    Args:
        folder: of the journal.

    Raises:
        ValueError: a line of it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / JOURNAL
        self._lock = threading.Lock()
        self._put_torn_aside()
        self.events = list(read_events(self.file)) if self.file.exists() else []
        self._ids = {event.id for event in self.events}
        new = not self.file.exists()
        self._place = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        if new:
            folder_place = os.open(folder, os.O_RDONLY)
            os.fsync(folder_place)
            os.close(folder_place)

    def append(self, event: AnyEvent) -> bool:
        """Write a line down; whether it is new. When this returns it is on the disk.

        Raises:
            JournalFull: there is no room for it.
        """
        line = event.model_dump_json(exclude_none=True).encode() + b"\n"
        with self._lock:
            if event.id in self._ids:
                return False
            size = os.fstat(self._place).st_size
            try:
                if os.write(self._place, line) != len(line):
                    raise OSError(errno.ENOSPC, "written in part")
                os.fsync(self._place)
            except OSError as error:
                os.ftruncate(self._place, size)
                free = shutil.disk_usage(self.file.parent).free
                raise JournalFull(
                    f"{self.file}: expected room for {len(line):,} bytes, got {error.strerror or error} ({free:,} "
                    f"bytes are free)"
                ) from None
            self._ids.add(event.id)
            self.events.append(event)
            return True

    def _put_torn_aside(self) -> None:
        if not self.file.exists():
            return
        content = self.file.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with (self.file.parent / TORN).open("ab") as out:
                out.write(content[whole:] + b"\n")
            with self.file.open("rb+") as file:
                file.truncate(whole)
                os.fsync(file.fileno())

    def close(self) -> None:
        """Write no more."""
        os.close(self._place)
