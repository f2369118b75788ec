"""What a phase makes of a record: dialogues whose spans carry a role and a loss weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dress.record import Dialogue, Turn

Role = Literal["system", "user", "condition", "assistant"]
PHASE_NAMES = ("align", "sft", "critique", "refinement", "rating", "best_of")


@dataclass(frozen=True)
class Span:
    """A piece of a dialogue. `condition` follows a user span and belongs to the same message.

    `system` stands first, in place of the chat format's default. `cut`: an answer that ended for lack of room;
    nothing is learned of its end.
    """

    role: Role
    text: str
    weight: float = 0.0
    cut: bool = False


@dataclass(frozen=True)
class Supervised:
    """One dialogue to train on: `phase` names it in the logs, spans of weight 0 are context."""

    phase: str
    spans: tuple[Span, ...]
    image: bool = True


def opening(dialogue: Dialogue) -> list[Span]:
    """What stands before the first turn: the dialogue's system text, if it has one."""
    return [] if dialogue.system is None else [Span("system", dialogue.system)]


def answer(turn: Turn, weight: float = 0.0) -> Span:
    """The turn's answer, cut or not; an empty one where there is none."""
    return Span("assistant", turn.assistant or "", weight, turn.cut)


class Completion(str):
    """The text of an answer, and how it ended: `stop`, `length` (it was cut), a server's word, None (unknown)."""

    finish_reason: str | None

    def __new__(cls, text: str, finish_reason: str | None = None) -> Completion:
        made = super().__new__(cls, text)
        made.finish_reason = finish_reason
        return made

    def __getnewargs__(self) -> tuple[str, str | None]:  # type: ignore[override]
        return str(self), self.finish_reason
