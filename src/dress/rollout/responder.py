"""The responder: who answers the last turn of dialogues."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from dress.base.progress import Advance, ignore
from dress.record import Dialogue, Record


@dataclass(frozen=True)
class Sampling:
    """How a responder answers; temperature 0 is greedy, `condition` is the text that collected answers stand after."""

    max_new_tokens: int
    batch_size: int
    temperature: float = 0.0
    top_p: float = 1.0
    condition: str = ""


@dataclass(frozen=True)
class NoAnswer:
    """An answer that could not be had, why, and which call of the ledger it was."""

    reason: str
    call: str | None = None


Answer = str | NoAnswer
"""A text that is a `dialogue.spans.Completion` says how it ended; of any other nobody knows."""


@dataclass(frozen=True)
class OpenTurn:
    """The last turn of a dialogue, to be answered.

    Args:
        record: whose dialogue it is.
        dialogue: its last turn has no answer yet.
        image: index into the pixels that are handed over beside the questions; None for no image.
        condition: text after the last user text; empty for none.
        seed: of the draws; equal dialogues are told apart by it.
    """

    record: Record
    dialogue: Dialogue
    image: int | None = None
    condition: str = ""
    seed: int = 0


class Responder(Protocol):
    """Answers the last turn of dialogues."""

    name: str

    def preprocess(self, data: bytes, where: str) -> Any:
        """What it needs of an image.

        Args:
            data: the image file's bytes.
            where: to name it in an error.
        """
        ...

    def answer(
        self, questions: Sequence[OpenTurn], pixels: Sequence[Any], sampling: Sampling, progress: Advance = ignore
    ) -> Sequence[Answer]:
        """An answer to every question, in order, or why there is none.

        Args:
            questions: to be answered side by side.
            pixels: what `preprocess` made of their images, each once.
            sampling: greedy or sampled.
            progress: called with the number of finished answers.
        """
        ...


@runtime_checkable
class Grouping(Protocol):
    """A responder that keeps what it has read between the turns of a dialogue, for some dialogues at a time."""

    def groups(self, dialogues: int, sampling: Sampling) -> Iterator[tuple[range, Responder]]:
        """Which of so many dialogues are to go together from first to last turn, and who answers them.

        What was read is kept until the next range is asked for. Several such calls may stand beside each other.
        """
        ...


class GivenAnswers:
    """Nobody answers: the answers that stand in the records are taken as they are, and judged (`conversation`)."""

    name = "given answers"

    def preprocess(self, data: bytes, where: str) -> None:
        """Looks at no image."""

    def answer(
        self, questions: Sequence[OpenTurn], pixels: Sequence[Any], sampling: Sampling, progress: Advance = ignore
    ) -> Sequence[Answer]:
        """No answer to anything; see `Responder.answer`."""
        return [NoAnswer("no_answer") for _ in questions]
