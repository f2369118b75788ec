"""The end of a run as rows, for loggers that show tables: figures, ratings, sample dialogues."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from dress.files import read_json

if TYPE_CHECKING:
    from dress.data.shards import Sample
    from dress.evaluation.outcomes import Outcome

ENDINGS = "endings.json"
"""Beside a collect stage's `ratings.json`: how answers ended."""

SAMPLES = 12
"""Scenes in the table of samples."""

COLUMNS = ("kind", "question", "sft", "dress", "rating", "feedback", "second try")
"""What is written beside the picture of a sample."""


@dataclass(frozen=True)
class Table:
    """Rows under named columns."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]

    def markdown(self) -> str:
        """As TensorBoard shows it; what models wrote cannot break out of its cell."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


@dataclass(frozen=True)
class SampleRow:
    """One evaluated dialogue: a picture, and the values under `COLUMNS`."""

    image: bytes | None
    values: tuple[Any, ...]

    def picture(self) -> Image.Image | None:
        return None if self.image is None else Image.open(io.BytesIO(self.image)).convert("RGB")


def sample_rows(outcomes: Sequence[Outcome], samples: Sequence[Sample]) -> list[SampleRow]:
    """One dialogue of each of the first samples, the kinds of requests taking turns.

    Rating, feedback (critique, refinement) and second try are the DRESS model's, or the SFT model's
    where there is no other.
    """
    said: dict[str, dict[str, dict[tuple[str, int], Outcome]]] = {}  # by key, item, model and turn
    for outcome in outcomes:
        if (outcome.model, outcome.condition) in (("sft", "none"), ("dress", "praise")):
            items = said.setdefault(outcome.key, {})
            items.setdefault(outcome.item, {})[outcome.model, outcome.turn] = outcome
    rows = []
    for number, (record, image) in enumerate(samples[:SAMPLES]):
        dialogues = list(said.get(record.key, {}).values())
        if dialogues:
            rows.append(SampleRow(image, _values(dialogues[number % len(dialogues)])))
    return rows


def flat_figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """`final/dress/honesty/chair_i`, `final/sft/interaction/mean_rating/turn_1`, and so on.

    Where there was nothing to count, the value is NaN, so that every run has the same names.
    """
    flat = {}
    for model in ("sft", "dress"):
        for name, turn, one in _figures(metrics.get(model, {})):
            suffix = "" if turn is None else f"/turn_{turn}"
            value = one["value"]
            flat[f"final/{model}/{name}{suffix}"] = math.nan if value is None else float(value)
    return flat


def figures_table(metrics: Mapping[str, Any]) -> Table:
    """Every figure of every model and condition, with n and interval."""
    rows = [
        (cell, name, turn, one["value"], one["n"], one["low"], one["high"])
        for cell, figures in metrics.get("conditions", {}).items()
        for name, turn, one in _figures(figures)
    ]
    return Table(("model/condition", "figure", "turn", "value", "n", "low", "high"), rows)


def ratings_table(run_dir: Path) -> Table:
    """How often each rating was given to the answers that the run's collect stages collected; how many were cut."""
    rows = [
        (file.parent.name, criterion, int(turn), *counts, *_ends(file.with_name(ENDINGS), criterion, turn, counts))
        for file in sorted(run_dir.glob("stages/*/ratings.json"))
        for criterion, turns in read_json(file).items()
        for turn, counts in turns.items()
    ]
    return Table(("stage", "criterion", "turn", "1", "2", "3", "4", "unrated", "cut", "end unknown"), rows)


def _ends(file: Path, criterion: str, turn: str, counts: Sequence[int]) -> tuple[float | None, int]:
    """The share of cut answers among those whose end is known, and how many ends are not."""
    if not file.exists():  # of an older run
        return None, sum(counts)
    ends = read_json(file).get(criterion, {}).get(turn, {"answers": 0, "length": 0, "unknown": 0})
    known = ends["answers"] - ends["unknown"]
    return (ends["length"] / known if known else None), ends["unknown"]


def _figures(figures: Mapping[str, Any]) -> Iterable[tuple[str, int | None, dict[str, Any]]]:
    """Name, turn (None where the figure is one for all turns), figure."""
    for name, figure in figures.items():
        if isinstance(figure, list):
            yield from ((name, turn, one) for turn, one in enumerate(figure))
        else:
            yield name, None, figure


def _values(said: Mapping[tuple[str, int], Outcome]) -> tuple[Any, ...]:
    sft, dress = said.get(("sft", 0)), said.get(("dress", 0))
    judged, again = dress or sft, said.get(("dress" if dress else "sft", 1))
    assert judged is not None, "every dialogue has a first answer"
    feedback = "\n".join(filter(None, (judged.critique, judged.refinement)))
    answers = (one.answer if one else None for one in (sft, dress))
    second = again.answer if again else None
    return (judged.kind, judged.user, *answers, judged.rating, feedback, second)


def _cell(value: Any) -> str:
    return "" if value is None else re.sub(r"[|\n]", " ", str(value))
