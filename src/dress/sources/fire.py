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
from dress.sources.rows import Part, Place, Rejected, Source, Table, plain_path, rating, table_files, without_mark

LOW, HIGH = 1, 10
ANNOTATOR = "fire-teacher"
_ANSWER = re.compile(r"\s*(?:Thought:(?P<thought>.*?))?Answer:(?P<answer>.*)", re.DOTALL)
_VERDICT = re.compile(
    r"\s*Score:\s*(?P<score>\d+(?:\.\d+)?)(?:\s*/\s*10)?[.,;]?\s*Feedback:(?P<feedback>.*)", re.DOTALL
)


class _Text(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    value: str


class _Said(_Text):
    role: str
    type: str | None = None


class _Row(BaseModel):
    """A row of the publisher; further fields (`id` …) are kept."""

    model_config = ConfigDict(extra="allow", strict=True)

    image: Any
    question: _Text | str
    groundtruth: _Text | str | None = None
    conversations: list[_Said] = Field(min_length=1)


class FIRE(Source):
    """See `rows.Source`."""

    name = "fire"
    version = 2
    splits = ("prompts", "feedback", "eval")
    usual = ("feedback", "eval")

    def tables(self, path: Path) -> list[Table]:
        """A file, or all `*.json` and `*.jsonl` of a folder."""
        return [Table(file) for file in table_files(path, "*.json", "*.jsonl")]

    def parts(self, value: Any, place: Place) -> Iterable[Part]:
        row = _Row.model_validate(value)
        dialogue = Dialogue(
            reference=None if row.groundtruth is None else _plain(row.groundtruth, "groundtruth"),
            turns=_turns(_plain(row.question, "question"), row.conversations),
            extra=row.model_extra or {},
        )
        yield Part(image=plain_path(row.image), dialogues=[dialogue])


def _turns(question: str, said: list[_Said]) -> list[Turn]:
    turns: list[Turn] = []
    user = question
    for number, text in enumerate(said):
        expected = ("student", "teacher")[number % 2]
        if text.role != expected:
            raise Rejected("bad order", f"conversations[{number}].role: expected {expected}, got {text.role!r:.80}")
        if expected == "student":
            turns.append(_answered(user, text, number))
        else:
            given = _verdict(text, number, followed=number + 1 < len(said))
            turns[-1].feedback.append(given)
            user = given.critique or ""
    return turns


def _answered(user: str, text: _Said, number: int) -> Turn:
    found = _ANSWER.match(text.value)
    answer = _behind_label(found["answer"]) if found else text.value
    if not answer.strip():
        raise Rejected("empty text", f"conversations[{number}].value: expected an answer, got {text.value!r:.80}")
    extra = dict(text.model_extra or {})
    if found and found["thought"]:
        extra["thought"] = _behind_label(found["thought"])
    return Turn(user=user, assistant=answer, extra=extra)


def _verdict(text: _Said, number: int, followed: bool) -> Feedback:
    found = _VERDICT.match(text.value)
    advice = _behind_label(found["feedback"]) if found else ""
    if not found or not advice.strip():
        expected = "`Score: …` and `Feedback: …`"
        raise Rejected("bad feedback", f"conversations[{number}].value: expected {expected}, got {text.value!r:.80}")
    low = 0 if float(found["score"]) == 0 else LOW  # some teachers go below their scale
    score, original = rating(found["score"], low, HIGH, f"conversations[{number}].value")
    return Feedback(
        rating=score,
        critique=advice,
        refinement=advice if followed else None,
        annotator=ANNOTATOR,
        original=original,
        extra=text.model_extra or {},
    )


def _behind_label(text: str) -> str:
    """Without the blank or line break behind `Answer:` and the line breaks before the next label, which are the
    format's; the rest as it stands."""
    return (text[1:] if text[:1] in (" ", "\n") else text).rstrip("\n")


def _plain(text: _Text | str, field: str) -> str:
    plain = without_mark(text if isinstance(text, str) else text.value)
    if not plain.strip():
        raise Rejected("empty text", f"{field}: expected text, got {text!r:.80}")
    return plain
