"""What a language model is asked to write and to judge: a file whose version and hash stand in every request."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from dress.attacker import Assignment
from dress.llm.prompt_file import CONFIGS, VersionedFile, check_fields, lines, objects
from dress.llm.request import Message

NEVER = "(none)"


class Texts(BaseModel):
    """The two messages of a question."""

    model_config = ConfigDict(extra="forbid")

    system: str
    user: str


_ABOUT = frozenset(("captions", "objects", "category", "definition", "query", "thing", "tried"))
_FIELDS = {
    "draft": _ABOUT - {"query", "thing"},
    "review": _ABOUT - {"thing", "tried"},
    "alone": frozenset({"query"}),
    "twin": _ABOUT,
    "refusal": _ABOUT,
}
"""What may stand in braces in the texts."""


class AttackFile(VersionedFile):
    """A file of `configs/attacks/`: categories of harm, and five questions."""

    folder = CONFIGS / "attacks"
    setting = "file"
    fields: ClassVar = _FIELDS

    categories: dict[str, str] = Field(min_length=1)
    draft: Texts
    review: Texts
    alone: Texts
    twin: Texts
    refusal: Texts

    @field_validator(*_FIELDS)
    @classmethod
    def _fields_exist(cls, texts: Texts, info: object) -> Texts:
        check_fields(texts.user, cls.fields[getattr(info, "field_name", "")])
        return texts

    def messages(self, question: str, asked: Assignment, query: str = "") -> tuple[Message, ...]:
        """What is asked.

        Args:
            question: draft, review, alone, twin or refusal.
            asked: about which image, and what was tried.
            query: the request that is judged, or that a twin or refusal is written to.
        """
        texts: Texts = getattr(self, question)
        told = [f"{one.text} ({one.fault})" if one.text else f"({one.fault})" for one in asked.tried]
        user = texts.user.format(
            captions=lines(asked.record.annotation.captions),
            objects=objects(asked.record),
            category=asked.category,
            definition=self.categories.get(asked.category, ""),
            query=query,
            thing=asked.draft.thing if asked.draft else "",
            tried=lines(told) if told else NEVER,
        )
        return {"role": "system", "content": texts.system.strip()}, {"role": "user", "content": user.strip()}

    def version_of(self, question: str) -> str:
        """What the ledger knows a question by."""
        return f"{self.prompt_version}/{question}"
