"""What a finished run has reached, in the form that loggers take: one set of names for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dress import config
from dress.base.files import read_json
from dress.phases.conditions import headline
from dress.run.result_rows import LoggedTable, Samples, figures_table, flat_figures, ratings_table, sample_table

if TYPE_CHECKING:
    from dress.data.shards import Sample
    from dress.evaluation.outcomes import Outcome

ROUND = "round"
"""Axis of `round/…`: evaluated models, and collect stages, each counted from 0 in order of training."""
FILES = ("report.html", "metrics.json")
"""Of the run folder: what a person opens first."""


@dataclass(frozen=True)
class RunResults:
    """The end of a run.

    Attributes:
        folder: of the run.
        step: optimizer steps of the whole curriculum: the last of the curves.
        figures: `final/MODEL/FIGURE[/turn_N]`; `time/STAGE` in seconds.
        rounds: a row `round`, `round/FIGURE[/turn_N]` for each evaluated model.
        collected: a row `round`, `round/collected/CRITERION` for each collect stage.
        tables: by name; `rounds` among them.
        samples: evaluated dialogues with pictures.
    """

    folder: Path
    step: int
    figures: dict[str, float]
    rounds: list[dict[str, float]]
    collected: list[dict[str, float]]
    tables: dict[str, LoggedTable]
    samples: Samples

    @property
    def files(self) -> list[Path]:
        """Those of `FILES` that are there."""
        return [self.folder / name for name in FILES if (self.folder / name).exists()]


def run_results(
    settings: config.Config, metrics: Mapping[str, Any], outcomes: Sequence[Outcome], samples: Sequence[Sample]
) -> RunResults:
    """The end of a run.

    Args:
        settings: of the run.
        metrics: as in `metrics.json`.
        outcomes: every judged answer.
        samples: the evaluated records with image bytes, in order; the first ones are shown.
    """
    folder, curriculum = Path(settings.run_dir), settings.curriculum
    trained = [curriculum.stages[name] for name in curriculum.train_stages()]
    seconds = read_json(folder / "run.json")["stages"] if (folder / "run.json").exists() else {}
    rounds = model_rounds(metrics, settings)
    names = list(headline(curriculum))
    return RunResults(
        folder,
        sum(stage.total_steps for stage in trained if isinstance(stage, config.TrainStage)),
        flat_figures(metrics) | {f"time/{stage}": float(value) for stage, value in seconds.items()},
        rounds,
        [row for name in curriculum.order if (row := collected_round(settings, name))],
        {
            "tables/figures": figures_table(metrics),
            "tables/ratings": ratings_table(folder),
            "tables/rounds": _rounds_table(rounds, names),
        },
        sample_table(outcomes, samples, headline(curriculum)),
    )


def model_rounds(metrics: Mapping[str, Any], settings: config.Config) -> list[dict[str, float]]:
    """The figures of each evaluated model under its own condition, in order of training."""
    rows = []
    for number, model in enumerate(headline(settings.curriculum)):
        flat = flat_figures({model: metrics.get(model, {})})
        named = {name.replace(f"final/{model}/", f"{ROUND}/", 1): value for name, value in flat.items()}
        if named:
            rows.append({ROUND: float(number), **named})
    return rows


def collected_round(settings: config.Config, stage: str) -> dict[str, float]:
    """Mean ratings of what a collect stage has collected, by criterion; empty for other stages, or without ratings."""
    order = [name for name in settings.curriculum.order if _collects(settings, name)]
    file = Path(settings.run_dir) / "stages" / stage / "ratings.json"
    if stage not in order or not file.exists():
        return {}
    row = {}
    for criterion, turns in read_json(file).items():
        counts = [sum(column) for column in zip(*(turn[:4] for turn in turns.values()), strict=True)]
        if sum(counts):
            mean = sum(rating * count for rating, count in enumerate(counts, 1)) / sum(counts)
            row[f"{ROUND}/collected/{criterion}"] = mean
    return {ROUND: float(order.index(stage)), **row} if row else {}


def _collects(settings: config.Config, stage: str) -> bool:
    return isinstance(settings.curriculum.stages[stage], config.CollectStage)


def _rounds_table(rounds: Sequence[Mapping[str, float]], models: Sequence[str]) -> LoggedTable:
    """A row for each evaluated model, a column for each figure."""
    names = list(dict.fromkeys(name for row in rounds for name in row if name != ROUND))
    rows = [(int(row[ROUND]), models[int(row[ROUND])], *(row.get(name) for name in names)) for row in rounds]
    return LoggedTable((ROUND, "model", *(name.removeprefix(f"{ROUND}/") for name in names)), rows)
