"""FIRE (arXiv 2407.11522): a student's answers and a teacher's scores (1-10) and feedback, in turns.

A row is `image, question {value}, groundtruth {value}, conversations [{role, type, value}]`: the student's value is
`Thought: …` and `Answer: …`, the teacher's `Score: 6.` and `Feedback: …`. The feedback is critique and advice in one:
it is kept as critique, and as refinement where another answer follows it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from dress.record import Dialogue, Feedback, Turn
from dress.sources.fields import plain_path, rating, without_mark
from dress.sources.protocol import Part, Place, RowError, RowFile, Source
from dress.sources.row_files import row_files_of

LOW, HIGH = 1, 10
ANNOTATOR = "fire-teacher"
_ANSWER = re.compile(r"\s*(?:Thought:(?P<thought>.*?))?Answer:(?P<answer>.*)", re.DOTALL)
_VERDICT = re.compile(
    r"\s*Score:\s*(?P<score>\d+(?:\.\d+)?)(?:\s*/\s*10)?[.,;]?\s*Feedback:(?P<feedback>.*)", re.DOTALL
)


class _Text(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    value: str


class _Message(_Text):
    role: str
    type: str | None = None


class _Row(BaseModel):
    """A row of the publisher; further fields (`id` …) are kept."""

    model_config = ConfigDict(extra="allow", strict=True)

    image: Any
    question: _Text | str
    groundtruth: _Text | str | None = None
    conversations: list[_Message] = Field(min_length=1)


class FIRE(Source):
    """See `protocol.Source`."""

    name = "fire"
    version = 2
    splits = ("prompts", "feedback", "eval")
    usual = ("feedback", "eval")

    def row_files(self, path: Path) -> list[RowFile]:
        """A file, or all `*.json` and `*.jsonl` of a folder."""
        return row_files_of(path, "*.json", "*.jsonl")

    def parts(self, value: Any, place: Place) -> Iterable[Part]:
        """One part a row; see `protocol.Source.parts`."""
        row = _Row.model_validate(value)
        dialogue = Dialogue(
            reference=None if row.groundtruth is None else _plain(row.groundtruth, "groundtruth"),
            turns=_turns(_plain(row.question, "question"), row.conversations),
            extra=row.model_extra or {},
        )
        yield Part(image=plain_path(row.image), dialogues=[dialogue])


def _turns(question: str, messages: list[_Message]) -> list[Turn]:
    turns: list[Turn] = []
    user = question
    for number, message in enumerate(messages):
        expected = ("student", "teacher")[number % 2]
        if message.role != expected:
            raise RowError("bad order", f"conversations[{number}].role: expected {expected}, got {message.role!r:.80}")
        if expected == "student":
            turns.append(_answered(user, message, number))
        else:
            feedback = _verdict(message, number, followed=number + 1 < len(messages))
            turns[-1].feedback.append(feedback)
            user = feedback.critique or ""
    return turns


def _answered(user: str, message: _Message, number: int) -> Turn:
    match = _ANSWER.match(message.value)
    answer = _behind_label(match["answer"]) if match else message.value
    if not answer.strip():
        raise RowError("empty text", f"conversations[{number}].value: expected an answer, got {message.value!r:.80}")
    extra = dict(message.model_extra or {})
    if match and match["thought"]:
        extra["thought"] = _behind_label(match["thought"])
    return Turn(user=user, assistant=answer, extra=extra)


def _verdict(message: _Message, number: int, followed: bool) -> Feedback:
    match = _VERDICT.match(message.value)
    advice = _behind_label(match["feedback"]) if match else ""
    if not match or not advice.strip():
        expected = "`Score: …` and `Feedback: …`"
        raise RowError("bad feedback", f"conversations[{number}].value: expected {expected}, got {message.value!r:.80}")
    low = 0 if float(match["score"]) == 0 else LOW  # some teachers go below their scale
    score, original = rating(match["score"], low, HIGH, f"conversations[{number}].value")
    return Feedback(
        rating=score,
        critique=advice,
        refinement=advice if followed else None,
        annotator=ANNOTATOR,
        original=original,
        extra=message.model_extra or {},
    )


def _behind_label(text: str) -> str:
    """Without the blank or line break behind `Answer:` and the line breaks before the next label, which are the
    format's; the rest as it stands."""
    return (text[1:] if text[:1] in (" ", "\n") else text).rstrip("\n")


def _plain(text: _Text | str, field: str) -> str:
    plain = without_mark(text if isinstance(text, str) else text.value)
    if not plain.strip():
        raise RowError("empty text", f"{field}: expected text, got {text!r:.80}")
    return plain
