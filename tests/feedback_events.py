"""Events of a journal of feedback, as tests make them."""

from __future__ import annotations

import uuid
from typing import Any

from dress.feedback.journal import AnswerEvent, FeedbackEvent

A, B, C = (letter * 64 for letter in "abc")
"""Names of answers."""


def new() -> str:
    return uuid.uuid4().hex


def said(answer: str, **fields: Any) -> FeedbackEvent:
    return FeedbackEvent(**({"id": new(), "at": "t", "who": "Ann", "answer": answer, "criterion": "honesty"} | fields))


def shown(answer: str, before: str | None = None, **fields: Any) -> AnswerEvent:
    texts = {"question": f"Q{answer[0]}", "text": f"answer {answer[0]}", "responder": "m"}
    return AnswerEvent(**({"id": new(), "at": "t", "who": "Ann", "answer": answer, "before": before} | texts | fields))
