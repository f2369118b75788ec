"""The end of a run as rows, for loggers that show tables: figures, ratings, sample dialogues."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from dress.base.files import read_json
from dress.base.run_folder import ENDINGS
from dress.base.terminal import visible

if TYPE_CHECKING:
    from dress.data.shards import Sample
    from dress.evaluation.outcomes import Outcome

SAMPLES = 12
"""Scenes in the table of samples."""


@dataclass(frozen=True)
class LoggedTable:
    """Rows under named columns."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]

    def markdown(self) -> str:
        """As TensorBoard shows it; what models wrote cannot break out of its cell."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


@dataclass(frozen=True)
class SampleRow:
    """One evaluated dialogue: a picture, and what is written beside it."""

    image: bytes | None
    values: tuple[Any, ...]

    def picture(self) -> Image.Image | None:
        return None if self.image is None else Image.open(io.BytesIO(self.image)).convert("RGB")


@dataclass(frozen=True)
class Samples:
    """Rows with pictures under named columns."""

    columns: tuple[str, ...]
    rows: list[SampleRow]


def sample_table(outcomes: Sequence[Outcome], samples: Sequence[Sample], headline: Mapping[str, str]) -> Samples:
    """One dialogue of each of the first samples, the kinds of requests taking turns.

    Rating, feedback (critique, refinement) and second try are those of the last model that answered.

    Args:
        outcomes: of all models and conditions.
        samples: the evaluated records with image bytes, in order.
        headline: model to the condition whose answers are shown, in order of training.
    """
    answers: dict[str, dict[str, dict[tuple[str, int], Outcome]]] = {}  # by key, item, model and turn
    for outcome in outcomes:
        if headline.get(outcome.model) == outcome.condition:
            items = answers.setdefault(outcome.key, {})
            items.setdefault(outcome.item, {})[outcome.model, outcome.turn] = outcome
    rows = []
    for number, (record, image) in enumerate(samples[:SAMPLES]):
        dialogues = list(answers.get(record.key, {}).values())
        if dialogues:
            rows.append(SampleRow(image, _values(dialogues[number % len(dialogues)], list(headline))))
    return Samples(("kind", "question", *headline, "rating", "feedback", "second try"), rows)


def flat_figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """`final/dress/honesty/chair_i`, `final/sft/interaction/mean_rating/turn_1` and so on, of what was counted."""
    flat = {}
    for model in (name for name in metrics if name != "conditions"):
        for name, turn, one in _figures(metrics[model]):
            suffix = "" if turn is None else f"/turn_{turn}"
            if one["value"] is not None:
                flat[f"final/{model}/{name}{suffix}"] = float(one["value"])
    return flat


def figures_table(metrics: Mapping[str, Any]) -> LoggedTable:
    """Every figure of every model and condition, with n and interval."""
    rows = [
        (cell, name, turn, one["value"], one["n"], one["low"], one["high"])
        for cell, figures in metrics.get("conditions", {}).items()
        for name, turn, one in _figures(figures)
    ]
    return LoggedTable(("model/condition", "figure", "turn", "value", "n", "low", "high"), rows)


def ratings_table(run_dir: Path) -> LoggedTable:
    """How often each rating was given to the answers that the run's collect stages collected; how many were cut."""
    rows = [
        (file.parent.name, criterion, int(turn), *counts, *_ends(file.with_name(ENDINGS), criterion, turn, counts))
        for file in sorted(run_dir.glob("stages/*/ratings.json"))
        for criterion, turns in read_json(file).items()
        for turn, counts in turns.items()
    ]
    return LoggedTable(("stage", "criterion", "turn", "1", "2", "3", "4", "unrated", "cut", "end unknown"), rows)


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


def _values(answers: Mapping[tuple[str, int], Outcome], models: Sequence[str]) -> tuple[Any, ...]:
    firsts = [answers.get((model, 0)) for model in models]
    last = [model for model, one in zip(models, firsts, strict=True) if one][-1]
    judged, again = answers[last, 0], answers.get((last, 1))
    feedback = "\n".join(filter(None, (judged.critique, judged.refinement)))
    texts = (one.answer if one else None for one in firsts)
    return (judged.kind, judged.user, *texts, judged.rating, feedback, again.answer if again else None)


def _cell(value: Any) -> str:
    """Foreign text is no markdown, no HTML and no second cell."""
    plain = " ".join(visible("" if value is None else str(value)).split("\n")).replace("|", " ")
    return re.sub(r"([\\`*_\[\]~])", r"\\\1", html.escape(plain, quote=False))
