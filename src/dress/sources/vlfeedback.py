"""VLFeedback (arXiv 2312.10665): answers of several models to one prompt, rated 1-5 by GPT-4V in three aspects.

A row is `id, prompt, img_path, models, completions`: a list of `{model, response, annotations}` or, as the `datasets`
library writes it, one object of three lists. `annotations` has an aspect's `{"Rating": "4", "Rationale"}`. Every
answer is a dialogue with three pieces of feedback; a rating `N/A` is none.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from dress.record import Criterion, Dialogue, Feedback, Turn
from dress.sources.rows import Part, Place, Rejected, Source, Table, plain_path, rating, table_files, without_mark

LOW, HIGH = 1, 5
ANNOTATOR = "gpt-4v"
ASPECTS: dict[str, Criterion] = {
    "Helpfulness": "helpfulness",
    "Visual Faithfulness": "honesty",
    "Ethical Considerations": "harmlessness",
}
NONE = ("n/a", "na", "none", "")


class _Aspect(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    rating: Any = Field(alias="Rating")
    rationale: str | None = Field(default=None, alias="Rationale")


class _Completion(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    model: str | None = None
    response: str
    annotations: dict[str, _Aspect]


class _Row(BaseModel):
    """A row of the publisher; further fields (`id`, `models` …) are kept."""

    model_config = ConfigDict(extra="allow", strict=True)

    prompt: str
    img_path: Any
    completions: list[_Completion] = Field(min_length=1)


class VLFeedback(Source):
    """See `rows.Source`."""

    name = "vlfeedback"
    version = 2
    splits = ("prompts", "feedback", "eval")
    usual = ("feedback", "eval")

    def tables(self, path: Path) -> list[Table]:
        """A file, or all `*.json` and `*.jsonl` of a folder."""
        return [Table(file) for file in table_files(path, "*.json", "*.jsonl")]

    def parts(self, value: Any, place: Place) -> Iterable[Part]:
        row = _Row.model_validate(_listed(value))
        prompt = without_mark(row.prompt)
        if not prompt.strip():
            raise Rejected("empty text", f"prompt: expected text, got {row.prompt!r:.80}")
        dialogues = [
            Dialogue(turns=[_turn(prompt, completion, f"completions[{number}]")], extra=row.model_extra or {})
            for number, completion in enumerate(row.completions)
        ]
        yield Part(image=plain_path(row.img_path, "img_path"), dialogues=dialogues)


def _listed(value: Any) -> Any:
    """The row with one object per completion."""
    columns = value.get("completions") if isinstance(value, dict) else None
    if not isinstance(columns, dict):
        return value
    lengths = {len(column) if isinstance(column, list) else -1 for column in columns.values()}
    if len(lengths) != 1 or -1 in lengths:
        raise Rejected("bad field", f"completions: expected lists of one length, got {columns!r:.80}")
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    return value | {"completions": rows}


def _turn(prompt: str, completion: _Completion, where: str) -> Turn:
    if not completion.response.strip():
        raise Rejected("empty text", f"{where}.response: expected an answer, got {completion.response!r:.80}")
    unknown = completion.annotations.keys() - ASPECTS.keys()
    if unknown:
        raise Rejected("bad field", f"{where}.annotations: expected {', '.join(ASPECTS)}, got {min(unknown)!r:.80}")
    return Turn(
        user=prompt,
        assistant=completion.response,
        feedback=[
            _feedback(ASPECTS[name], aspect, f"{where}.annotations.{name}")
            for name, aspect in completion.annotations.items()
        ],
        provenance={} if completion.model is None else {"responder": completion.model},
        extra=completion.model_extra or {},
    )


def _feedback(criterion: Criterion, aspect: _Aspect, where: str) -> Feedback:
    extra = dict(aspect.model_extra or {})
    mapped = original = None
    if aspect.rating is None or (isinstance(aspect.rating, str) and aspect.rating.strip().lower() in NONE):
        extra["Rating"] = aspect.rating
    else:
        mapped, original = rating(aspect.rating, LOW, HIGH, f"{where}.Rating")
    return Feedback(
        criterion=criterion,
        rating=mapped,
        critique=aspect.rationale,
        annotator=ANNOTATOR,
        original=original,
        extra=extra,
    )
