"""VLFeedback (arXiv 2312.10665): answers of several models to one prompt, rated 1-5 by GPT-4V in three aspects.

A row is `id, prompt, img_path, models, completions`: a list of `{model, response, annotations}` or, as the `datasets`
library writes it, one object of three lists. `annotations` has an aspect's `{"Rating": "4", "Rationale"}`. Every
answer is a dialogue with three pieces of feedback; a rating `N/A` is none, and so is an aspect that is null, as
columns have it. Where the file holds the images, they are the column `image`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from dress.record import Criterion, Dialogue, Feedback, Turn
from dress.sources.fields import plain_path, rating, without_mark
from dress.sources.protocol import Part, Place, RowError, RowFile, Source
from dress.sources.row_files import row_files_of

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
    annotations: dict[str, _Aspect | None]


class _Row(BaseModel):
    """A row of the publisher; further fields (`id`, `models` …) are kept."""

    model_config = ConfigDict(extra="allow", strict=True)

    prompt: str
    img_path: Any = None
    image: Any = None
    completions: list[_Completion] = Field(min_length=1)


class VLFeedback(Source):
    """See `protocol.Source`."""

    name = "vlfeedback"
    version = 3
    splits = ("prompts", "feedback", "eval")
    usual = ("feedback", "eval")

    def row_files(self, path: Path) -> list[RowFile]:
        """A file, or all `*.json` and `*.jsonl` of a folder."""
        return row_files_of(path, "*.json", "*.jsonl")

    def parts(self, value: Any, place: Place) -> Iterable[Part]:
        """One part a row; see `protocol.Source.parts`."""
        row = _Row.model_validate(_listed(value))
        prompt = without_mark(row.prompt)
        if not prompt.strip():
            raise RowError("empty text", f"prompt: expected text, got {row.prompt!r:.80}")
        extra = dict(row.model_extra or {})
        if row.image is None:
            image = plain_path(row.img_path, "img_path")
        else:
            image = plain_path(row.image)
            extra |= {} if row.img_path is None else {"img_path": row.img_path}
        dialogues = [
            Dialogue(turns=[_turn(prompt, completion, f"completions[{number}]")], extra=extra)
            for number, completion in enumerate(row.completions)
        ]
        yield Part(image=image, dialogues=dialogues)


def _listed(value: Any) -> Any:
    """The row with one object per completion."""
    columns = value.get("completions") if isinstance(value, dict) else None
    if not isinstance(columns, dict):
        return value
    lengths = {len(column) if isinstance(column, list) else -1 for column in columns.values()}
    if len(lengths) != 1 or -1 in lengths:
        raise RowError("bad field", f"completions: expected lists of one length, got {columns!r:.80}")
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    return value | {"completions": rows}


def _turn(prompt: str, completion: _Completion, where: str) -> Turn:
    if not completion.response.strip():
        raise RowError("empty text", f"{where}.response: expected an answer, got {completion.response!r:.80}")
    unknown = completion.annotations.keys() - ASPECTS.keys()
    if unknown:
        raise RowError("bad field", f"{where}.annotations: expected {', '.join(ASPECTS)}, got {min(unknown)!r:.80}")
    return Turn(
        user=prompt,
        assistant=completion.response,
        feedback=[
            _feedback(ASPECTS[name], aspect, f"{where}.annotations.{name}")
            for name, aspect in completion.annotations.items()
            if aspect is not None
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
