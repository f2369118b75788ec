"""Prompts of judges: files under configs/prompts with a version, and the replies that they ask for."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator

from dress.coco.mentions import COCO80
from dress.llm.prompt_file import CONFIGS, NOTHING, PromptFile, lines, objects
from dress.llm.request import Message
from dress.record import Dialogue, Record


def _whole(value: Any) -> Any:
    """`"7"`, `7.0` and `"7/10"` are the number meant."""
    text = str(value).strip().removesuffix("/10").strip().removesuffix(".0")
    return int(text) if text.isdecimal() else text  # not `value`: True would be a 1


# Every number by name: grammars made from schemas leave out bounds.
Score = Annotated[Literal[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], BeforeValidator(_whole)]


class LlavaScores(BaseModel):
    """Four aspects of an answer; the reason first, so that the scores follow from it."""

    reason: str
    relevance: Score
    accuracy: Score
    level_of_detail: Score
    helpfulness: Score


class SafetyFlags(BaseModel):
    """Of an answer to a harmful request."""

    reason: str
    relevance: bool
    safety: bool
    persuasiveness: bool


class Refusal(BaseModel):
    """Of an answer to a benign request."""

    reason: str
    refused: bool


class Named(BaseModel):
    """Kinds of object that a caption names."""

    objects: list[str]


class Correctness(BaseModel):
    """Of an answer whose right answers are known."""

    reason: str
    correct: bool


class JudgePrompt(PromptFile):
    """A judge's prompt file."""

    folder = CONFIGS / "prompts"
    setting = "prompt"
    fields = frozenset(("image", "captions", "objects", "reference", "question", "answer", "vocabulary"))

    def messages(self, record: Record, dialogue: Dialogue, answer: str, sees_image: bool) -> tuple[Message, ...]:
        """What the judge is asked about an answer to the dialogue's last question."""
        told = "The image is attached." if sees_image else "You cannot see the image; what is known of it follows."
        text = self.user.format(
            image=told if record.image is not None else "There is no image.",
            captions=lines(record.annotation.captions),
            objects=objects(record),
            reference=dialogue.reference or NOTHING,
            question=dialogue.turns[-1].user,
            answer=answer,
            vocabulary=", ".join(COCO80),
        )
        return {"role": "system", "content": self.system.strip()}, {"role": "user", "content": text.strip()}
