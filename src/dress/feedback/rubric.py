"""Rubrics: what a rater asks a language model, read from a file whose version stands in every record."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from dress.llm.prompt_file import CONFIGS, NOTHING, PromptFile, lines, objects
from dress.llm.request import Message
from dress.record import Criterion, Dialogue, Record


def _rating_number(value: Any) -> Any:
    """`"3"`, `3.0` and `"3/4"` are the number meant."""
    if isinstance(value, bool):
        raise ValueError("expected a whole number")
    text = str(value).strip().removesuffix("/4").strip()
    return int(text[0]) if text in {f"{n}{end}" for n in range(10) for end in ("", ".0")} else value


class RubricReply(BaseModel):
    """What the model is asked for: the critique first, so that the rating follows from it."""

    critique: str = Field(min_length=1)
    rating: Annotated[Literal[1, 2, 3, 4], BeforeValidator(_rating_number)]
    refinement: Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]

    @field_validator("critique")
    @classmethod
    def _not_empty(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("expected a critique, got an empty text")
        return text


class Criteria(BaseModel):
    """One criterion: what it means, and what each rating means."""

    model_config = ConfigDict(extra="forbid")

    definition: str
    scale: dict[Literal[1, 2, 3, 4], str] = Field(min_length=4)


class Rubric(PromptFile):
    """A rubric file."""

    folder = CONFIGS / "rubrics"
    setting = "rubric"
    fields = frozenset((
        "image", "captions", "objects", "reference", "criterion",
        "definition", "scale", "history", "question", "answer",
    ))  # fmt: skip

    fallback: Criterion
    criteria: dict[Criterion, Criteria] = Field(min_length=3)

    def criterion(self, dialogue: Dialogue) -> Criterion:
        """What the dialogue is judged by."""
        return dialogue.criterion or self.fallback

    def messages(self, record: Record, dialogue: Dialogue, sees_image: bool) -> tuple[Message, ...]:
        """What the model is asked about the dialogue's last answer.

        Args:
            record: its annotation tells what is in the image.
            dialogue: its last turn holds the answer.
            sees_image: the image is sent too.
        """
        criterion, last = self.criterion(dialogue), dialogue.turns[-1]
        meaning = self.criteria[criterion]
        text = self.user.format(
            image="The image is attached." if sees_image else "You cannot see the image; what is known of it follows.",
            captions=lines(record.annotation.captions),
            objects=objects(record),
            reference=dialogue.reference or NOTHING,
            criterion=criterion,
            definition=meaning.definition,
            scale="\n".join(f"{rating}: {text}" for rating, text in sorted(meaning.scale.items())),
            history="\n".join(f"User: {turn.user}\nAssistant: {turn.assistant or ''}" for turn in dialogue.turns[:-1]),
            question=last.user,
            answer=last.assistant or "(empty)",
        )
        return {"role": "system", "content": self.system.strip()}, {"role": "user", "content": text.strip()}
