"""Rubrics: what a rater asks a language model, read from a file whose version stands in every record."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from dress.feedback.request import Message
from dress.record import Criterion, Dialogue, Record, describe

RUBRICS = Path(__file__).resolve().parents[3] / "configs" / "rubrics"
NOTHING = "(not known)"
FIELDS = frozenset(
    ("image", "captions", "objects", "reference", "criterion", "definition", "scale", "history", "question", "answer")
)


def _whole_rating(value: Any) -> Any:
    """`"3"`, `3.0` and `"3/4"` are the number meant."""
    if isinstance(value, bool):
        raise ValueError("expected a whole number")
    text = str(value).strip().removesuffix("/4").strip()
    return int(text[0]) if text in {f"{n}{end}" for n in range(10) for end in ("", ".0")} else value


class Verdict(BaseModel):
    """What the model is asked for: the critique first, so that the rating follows from it."""

    critique: str = Field(min_length=1)
    rating: Annotated[Literal[1, 2, 3, 4], BeforeValidator(_whole_rating)]
    refinement: Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]

    @field_validator("critique")
    @classmethod
    def _said(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("expected a critique, got an empty text")
        return text


class Criteria(BaseModel):
    """One criterion: what it means, and what each rating means."""

    model_config = ConfigDict(extra="forbid")

    definition: str
    scale: dict[Literal[1, 2, 3, 4], str] = Field(min_length=4)


class Rubric(BaseModel):
    """A rubric file."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^[\w-]+$")
    version: int
    fallback: Criterion
    system: str
    user: str
    criteria: dict[Criterion, Criteria] = Field(min_length=3)
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
        """Name, version and hash of the file: the same for the same prompts only."""
        return f"{self.name}-{self.version}+{self.hash}"

    def criterion(self, dialogue: Dialogue) -> Criterion:
        """What the dialogue is judged by."""
        return dialogue.criterion or self.fallback

    def messages(self, record: Record, dialogue: Dialogue, sees_image: bool) -> tuple[Message, ...]:
        """What the model is asked about the dialogue's last answer.

        Args:
            record: whose annotation is told.
            dialogue: its last turn holds the answer.
            sees_image: the image is sent too.
        """
        criterion, last = self.criterion(dialogue), dialogue.turns[-1]
        asked = self.criteria[criterion]
        text = self.user.format(
            image="The image is attached." if sees_image else "You cannot see the image; what is known of it follows.",
            captions=lines(record.annotation.captions),
            objects=lines([object_line(found.label, found.box) for found in record.annotation.objects]),
            reference=dialogue.reference or NOTHING,
            criterion=criterion,
            definition=asked.definition,
            scale="\n".join(f"{rating}: {meaning}" for rating, meaning in sorted(asked.scale.items())),
            history="\n".join(f"User: {turn.user}\nAssistant: {turn.assistant or ''}" for turn in dialogue.turns[:-1]),
            question=last.user,
            answer=last.assistant or "(empty)",
        )
        return {"role": "system", "content": self.system.strip()}, {"role": "user", "content": text.strip()}


def load_rubric(name: str) -> Rubric:
    """A rubric by name (a file in configs/rubrics), or by path.

    Raises:
        ValueError: no such file, or a field in it does not fit.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else RUBRICS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in RUBRICS.glob("*.yaml")))
        raise ValueError(f"rubric={name}: expected a file, found none at {path}. There are: {known}")
    text = path.read_bytes()
    try:
        rubric = Rubric.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: expected YAML ({error})") from None
    except ValidationError as error:
        raise ValueError(f"{path}: {describe(error)}") from None
    return rubric.model_copy(update={"hash": hashlib.sha256(text).hexdigest()[:8]})


def lines(texts: Sequence[str]) -> str:
    """A list for a prompt; `NOTHING` where it is empty."""
    return "\n".join(f"- {text}" for text in texts) or NOTHING


def object_line(label: str, box: tuple[float, float, float, float] | None) -> str:
    """A label with its box, if known."""
    return label if box is None else f"{label} [{', '.join(f'{side:.2f}' for side in box)}]"
