"""Prompts of judges: files under configs/prompts with a version, and the replies that they ask for."""

from __future__ import annotations

import hashlib
import string
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from dress.feedback.request import Message
from dress.feedback.rubric import NOTHING, lines, object_line
from dress.mentions import COCO80
from dress.record import Dialogue, Record, describe

PROMPTS = Path(__file__).resolve().parents[4] / "configs" / "prompts"
FIELDS = frozenset(("image", "captions", "objects", "reference", "question", "answer", "vocabulary"))


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


class JudgePrompt(BaseModel):
    """A prompt file."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^[\w-]+$")
    version: int
    system: str
    user: str
    hash: str = ""

    @field_validator("user")
    @classmethod
    def _fields_exist(cls, text: str) -> str:
        for _, field, _, _ in string.Formatter().parse(text):
            if field is not None and field not in FIELDS:
                raise ValueError(f"no such field {{{field}}}; there are {', '.join(sorted(FIELDS))}")
        return text

    @property
    def prompt_version(self) -> str:
        """Name, version and hash of the file."""
        return f"{self.name}-{self.version}+{self.hash}"

    def messages(self, record: Record, dialogue: Dialogue, answer: str, sees_image: bool) -> tuple[Message, ...]:
        """What the judge is asked about an answer to the dialogue's last question."""
        told = "The image is attached." if sees_image else "You cannot see the image; what is known of it follows."
        text = self.user.format(
            image=told if record.image is not None else "There is no image.",
            captions=lines(record.annotation.captions),
            objects=lines([object_line(found.label, found.box) for found in record.annotation.objects]),
            reference=dialogue.reference or NOTHING,
            question=dialogue.turns[-1].user,
            answer=answer,
            vocabulary=", ".join(COCO80),
        )
        return {"role": "system", "content": self.system.strip()}, {"role": "user", "content": text.strip()}


def load_prompt(name: str) -> JudgePrompt:
    """A prompt by name (a file in configs/prompts), or by path.

    Raises:
        ValueError: no such file, or a field in it does not fit.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else PROMPTS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in PROMPTS.glob("*.yaml")))
        raise ValueError(f"prompt={name}: expected a file, found none at {path}. There are: {known}")
    text = path.read_bytes()
    try:
        prompt = JudgePrompt.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: expected YAML ({error})") from None
    except ValidationError as error:
        raise ValueError(f"{path}: {describe(error)}") from None
    return prompt.model_copy(update={"hash": hashlib.sha256(text).hexdigest()[:8]})
