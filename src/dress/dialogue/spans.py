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
    nothing is learned of its end. `marks`: characters [start, end) of the text, and what multiplies the weight there.
    """

    role: Role
    text: str
    weight: float = 0.0
    cut: bool = False
    marks: tuple[tuple[int, int, float], ...] = ()


BETTER, WORSE = "better", "worse"
"""Sides of a pair whose order no rating says."""
SECOND_ANSWERS = ("good, good", "good, bad", "bad, good", "bad, bad")
"""Sides of a second answer, by what the first one is, and itself."""
STUDENT, TEACHER = "student", "teacher"
"""Sides of one answer without a context and with it."""
MISMATCHED = "mismatched"
"""Side of an answer to another record's question."""
CONTEXT = frozenset({TEACHER, MISMATCHED})
"""Sides whose answers are scored and teach nothing themselves."""


@dataclass(frozen=True)
class AnswerFacts:
    """What an objective that compares answers knows of one, beside its log-probability.

    `group`: answers of a record that are compared have the same. `side`: what the answer is in its group, where that
    is not for its `rating` (1-4) to say.
    """

    group: str
    side: str = ""
    rating: int | None = None

    @property
    def learned(self) -> bool:
        """Whether its tokens are learned, or only read."""
        return self.side not in CONTEXT


@dataclass(frozen=True)
class SupervisedDialogue:
    """One dialogue to train on: `phase` names it in the logs, spans of weight 0 are context.

    `answer`: of an answer that an objective compares with others.
    """

    phase: str
    spans: tuple[Span, ...]
    image: bool = True
    answer: AnswerFacts | None = None


def answer(turn: Turn, weight: float = 0.0, marked: float = 1.0) -> Span:
    """The turn's answer, cut or not; an empty one where there is none.

    Args:
        turn: whose.
        weight: of its tokens in the loss.
        marked: what multiplies that where a rater marked the answer.
    """
    marks = tuple((start, end, marked) for start, end in turn.marked) if weight and marked != 1 else ()
    return Span("assistant", turn.assistant or "", weight, turn.cut, marks)


def messages(system: str | None, exchanges: Iterable[tuple[str, Span]]) -> list[Span]:
    """Spans of a dialogue from (user text, answer) pairs, below its system text if it has one."""
    opening = [] if system is None else [Span("system", system)]
    return [*opening, *(span for user, reply in exchanges for span in (Span("user", user), reply))]


def history(dialogue: Dialogue, turns: int, weight: float = 0.0, marked: float = 1.0) -> list[Span]:
    """The first `turns` turns, with their answers at this loss weight; `marked` as in `answer`."""
    return messages(dialogue.system, ((turn.user, answer(turn, weight, marked)) for turn in dialogue.turns[:turns]))


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
