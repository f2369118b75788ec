"""What a phase makes of a record: dialogues whose spans carry a role and a loss weight."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from dress.record import Dialogue, Turn

Role = Literal["system", "user", "condition", "assistant"]
ROLES: tuple[Role, ...] = get_args(Role)


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
class SupervisedDialogue:
    """One dialogue to train on: `phase` names it in the logs, spans of weight 0 are context."""

    phase: str
    spans: tuple[Span, ...]
    image: bool = True


def answer(turn: Turn, weight: float = 0.0) -> Span:
    """The turn's answer, cut or not; an empty one where there is none."""
    return Span("assistant", turn.assistant or "", weight, turn.cut)


def messages(system: str | None, exchanges: Iterable[tuple[str, Span]]) -> list[Span]:
    """Spans of a dialogue from (user text, answer) pairs, below its system text if it has one."""
    opening = [] if system is None else [Span("system", system)]
    return [*opening, *(span for user, reply in exchanges for span in (Span("user", user), reply))]


def history(dialogue: Dialogue, turns: int, weight: float = 0.0) -> list[Span]:
    """The first `turns` turns, with their answers at this loss weight."""
    return messages(dialogue.system, ((turn.user, answer(turn, weight)) for turn in dialogue.turns[:turns]))


def prompt(dialogue: Dialogue, turn: int = -1, condition: str | None = None) -> list[Span]:
    """What the answer of a turn stands after, in training and at inference alike.

    System text, the turns before with their answers, the turn's user text, and its condition: one that stood in an
    earlier turn is not repeated.

    Args:
        dialogue: whose turn it is.
        turn: its number; -1 is the last.
        condition: text that conditions the answer; none where it is empty.
    """
    number = turn % len(dialogue.turns)
    after = [Span("condition", condition)] if condition else []
    return [*history(dialogue, number), Span("user", dialogue.turns[number].user), *after]


class Completion(str):
    """The text of an answer, and how it ended: `stop`, `length` (it was cut), a server's word, None (unknown)."""

    finish_reason: str | None

    def __new__(cls, text: str, finish_reason: str | None = None) -> Completion:
        completion = super().__new__(cls, text)
        completion.finish_reason = finish_reason
        return completion

    def __getnewargs__(self) -> tuple[str, str | None]:  # type: ignore[override]  # str's takes one
        return str(self), self.finish_reason
