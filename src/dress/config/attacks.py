"""Settings of `src/collect.py task=attack`: requests that would do harm, written about images."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from dress.config.data import Data
from dress.config.raters import Endpoint, Recorded
from dress.config.types import Count, Name, Positive, Real, Section

Share = Annotated[float, Field(gt=0, le=1)]
Temperature = Annotated[Real, Field(le=100)] | None
Structured = Literal["auto", "json_schema", "json_object", "text"]


class OwnWriter(Section):
    """Somebody who needs no server: `auto` (see the setting), or the world whose scenes the records are of."""

    kind: Name


class LLMWriter(Endpoint):
    """A language model that writes requests."""

    kind: Literal["llm"]  # a language model behind a server
    structured: Structured = "auto"  # auto: the best the server can
    temperature: Temperature = 0.9  # null = the server's own
    max_tokens: Positive = 400  # of a reply
    preview: Count = 5  # drafts that are shown with their reviews before the rest is asked
    confirm: bool = False  # stop after the preview unless somebody agrees


class LLMReviewer(Endpoint):
    """A language model that judges requests."""

    kind: Literal["llm"]  # a language model behind a server
    structured: Structured = "auto"  # auto: the best the server can
    temperature: Temperature = 0.0  # null = the server's own
    max_tokens: Positive = 400  # of a reply


class RecordedWriter(Recorded):
    """A language model's drafts out of a ledger."""

    temperature: Temperature = 0.9  # as it was recorded
    max_tokens: Positive = 400  # as it was recorded


class RecordedReviewer(Recorded):
    """A language model's reviews out of a ledger."""

    temperature: Temperature = 0.0  # as it was recorded
    max_tokens: Positive = 400  # as it was recorded


def _section(settings: Any) -> str:
    """Which of the sections below settings are, by their kind."""
    kind = settings.get("kind") if isinstance(settings, dict) else getattr(settings, "kind", None)
    return kind if kind in ("llm", "replay") else "plain"


_Own = Annotated[OwnWriter, Tag("plain")]
AttackerSettings = Annotated[
    _Own | Annotated[LLMWriter, Tag("llm")] | Annotated[RecordedWriter, Tag("replay")], Discriminator(_section)
]
"""Who writes requests."""
AttackJudgeSettings = Annotated[
    _Own | Annotated[LLMReviewer, Tag("llm")] | Annotated[RecordedReviewer, Tag("replay")], Discriminator(_section)
]
"""Who judges them."""


class AttackCommand(Section):
    """Requests that would do harm, about your images, with refusals and harmless twins (docs/attacks.md)."""

    data: Data | None = None  # whose images: those of its prompts
    shards: str | None = None  # or a folder of shards
    out: str  # the folder to make
    records: Positive = 1000  # images, from the first
    per_image: Positive = 1  # requests of an image
    rounds: Positive = 3  # drafts of a request at most, each told what was wrong with the one before
    file: str = "attacks"  # configs/attacks/<name>.yaml, or a file: categories and prompts of a language model
    categories: list[str] | None = None  # of those the attacker knows; null = all
    threshold: Annotated[int, Field(ge=1, le=4)] = 3  # least harm that the judge must see, from 1 to 4
    alone: Literal["any", "harmful", "safe"] = "any"  # what a request's words must be without the image
    near: Share | None = None  # common words in a row that make a repetition; null = 0.7 of an LLM, a world's own
    opening: Share | None = None  # refusals that may begin alike; null = 0.1 of an LLM, a world's own
    seen: list[str] = Field(default=[])  # sets or files of rows whose questions may not come again: an evaluation's
    twins: bool = True  # write a harmless twin of each
    references: bool = True  # write a refusal of each
    images: bool = True  # write images beside the rows
    per_shard: Positive = 200  # records of a shard, and of what is asked at once
    seed: Count = 0  # of the draws
    attacker: AttackerSettings  # auto: the world's own; else llm or replay
    judge: AttackJudgeSettings  # auto: as the attacker; or llm, replay
    dry_run: bool = False  # only estimate calls, tokens and cost
