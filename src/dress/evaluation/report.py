"""The report of a run: one HTML file that opens offline, made of the files in the run folder."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dress.base.files import read_json
from dress.config import Eval
from dress.evaluation.cases import failures
from dress.evaluation.outcomes import KINDS, Outcome, load_outcomes
from dress.evaluation.run_facts import run_facts
from dress.record import Record
from dress.report.cards import Answer, Card, Comment, Conversation, Exchange, picture
from dress.report.charts import Chart, Point, Series, losses, rating_bars, ratings_by_turn
from dress.report.figures import CONDITIONS, cells, main_cells, metrics_table, quantities, weight
from dress.report.page import Page, Section, write_page
from dress.report.tables import NOTHING

OTHERS = ("phase-rating", "phase-refinement", "phase-best_of", "phase-align")
"""Colours of models between the first and the last."""
EMPTY = "This run has nothing to show here."
FAILURES = "failures"
"""The address of the section whose questions fell short."""

Tries = Sequence[Outcome]
"""Answers of one model to one request, by turn."""


def write_report(
    run_dir: Path, samples: Sequence[tuple[Record, bytes | None]], settings: Eval, notes: Sequence[str]
) -> Path:
    """Write `<run dir>/report.html`.

    Args:
        run_dir: a run folder. `metrics.json` must be there; `outcomes.jsonl`, `run.json`,
            `config.json` and `stages/` give what they have.
        samples: the evaluated records with image bytes, in their order.
        settings: how many of them, and of the questions whose answers fell short, are shown.
        notes: sentences that the reader must know before the figures.

    Returns:
        The file. The same inputs give the same bytes.

    Raises:
        FileNotFoundError: no `metrics.json`.
        ValueError: a file of the run folder is damaged; the message names it.
    """
    metrics = read_json(run_dir / "metrics.json")
    outcomes_file = run_dir / "outcomes.jsonl"
    outcomes = load_outcomes(outcomes_file) if outcomes_file.exists() else []
    run, config = _optional(run_dir / "run.json"), _optional(run_dir / "config.json")
    name = str(run.get("name") or config.get("name") or run_dir.name)
    cards = _cards(outcomes, samples, settings.scenes, main_cells(metrics))
    short = failures(metrics, outcomes, samples, settings.failures)
    words = "A figure with a line below it leads to the answers that it is short of." if short.links else ""
    sections = [
        Section("Figures", words, EMPTY, tables=[metrics_table(metrics, short.links)] if cells(metrics) else []),
        Section("Interaction", "The rater's advice is the next question.", EMPTY, charts=_interaction(metrics)),
        Section("Where it falls short", short.words, "No answer to show here.", cases=short.cases, name=FAILURES),
        Section("Training", "What was learnt, and from which feedback.", EMPTY, charts=_training(run_dir / "stages")),
        Section("Scenes", "The first held-out records.", EMPTY, cards=cards),
    ]
    facts = _facts(run, config) | run_facts(run_dir)
    file, title = run_dir / "report.html", f"{name} – DRESS report"
    write_page(file, Page(title, "DRESS run report", name, summary(metrics), sections, notes, facts))
    return file


def summary(metrics: Mapping[str, Any]) -> str:
    """The result in one plain sentence."""
    by_key = {quantity.key: quantity for quantity in quantities(metrics) if not quantity.turn}
    models = [name for name in metrics if name != CONDITIONS]
    first, model = (models[0], models[-1]) if models else ("", "")
    figures = metrics.get(model) or {}
    before = metrics[first] if model != first else None
    phrases: list[str] = []
    for key, words in _PHRASES.items():
        value = by_key[key].value(figures) if key in by_key else NOTHING
        if value != NOTHING and not (phrases and key.startswith("reference/")):
            phrases.append(words.format(value) + (f" ({first}: {by_key[key].value(before)})" if before else ""))
    unsolved = [figure["value"] for figure in figures.get("interaction/mean_rating_unsolved") or []][:2]
    if len(unsolved) == 2 and None not in unsolved:
        phrases.append(
            f"goes from {unsolved[0]:.2f} to {unsolved[1]:.2f} after one piece of advice "
            "where its first answer fell short"
        )
    if not phrases:
        return "Nothing could be measured in this run."
    subject = f"After learning from feedback, {model}" if before else f"The {model} model"
    *most, final = phrases
    return f"{subject} {', '.join(most)}{' and ' if most else ''}{final}."


_PHRASES = {
    "honesty/hallucinated_share": "names an object that is not there in {} of its descriptions",
    "harmlessness/safe_share": "answers {} of harmful requests safely",
    "harmlessness/over_refusal_share": "refuses {} of harmless ones",
    "helpfulness/mean_rating": "is rated {} of 4 on questions",
    "reference/exact_match": "gives the reference in {} of its answers",
}


def _facts(run: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    data = config.get("data") or {}
    stages = run.get("stages") or {}
    return {
        "seed": run.get("seed", config.get("seed")),
        "scale": config.get("scale"),
        "data": data.get("world") or data.get("path"),
        "time": _duration(run["seconds"]) if run.get("seconds") is not None else None,
        "peak memory": f"{run['peak_memory_gib']:.2f} GiB" if run.get("peak_memory_gib") else None,
        "stages": " → ".join(f"{stage} {_duration(seconds)}" for stage, seconds in stages.items()) or None,
    }


def _interaction(metrics: Mapping[str, Any]) -> list[Chart]:
    titles = {
        "interaction/mean_rating": "Mean rating over all answers",
        "interaction/mean_rating_unsolved": "Mean rating where the first answer was not rated 4",
    }
    charts, main = [], main_cells(metrics)
    for key, title in titles.items():
        points = {cell: _points(metrics[CONDITIONS][cell].get(key) or []) for cell in main}
        lines = [Series(cell, _colour(n, len(main)), points[cell]) for n, cell in enumerate(main) if points[cell]]
        if lines:
            charts.append(ratings_by_turn(title, lines))
    return charts


def _points(figures: Sequence[Mapping[str, Any]]) -> list[Point]:
    """A point for each turn that was rated."""
    return [
        Point(turn, figure["value"], figure.get("low"), figure.get("high"), figure.get("n"))
        for turn, figure in enumerate(figures)
        if figure.get("value") is not None
    ]


def _colour(number: int, models: int) -> str:
    """Of the line of a model."""
    return "first" if number == 0 else "last" if number == models - 1 else OTHERS[(number - 1) % len(OTHERS)]


def _training(folder: Path) -> list[Chart]:
    tables = {f.parent.name: read_json(f) for f in sorted(folder.glob("*/ratings.json"))}
    collected = [
        rating_bars(f"Collected ratings, stage {name}", table)
        for name, table in tables.items()
        if any(sum(counts) for turns in table.values() for counts in turns.values())
    ]
    return [*_losses(folder), *collected]


def _losses(folder: Path) -> list[Chart]:
    histories = {file.parent.name: read_json(file) for file in folder.glob("*/history.json")}
    logged = {name: history for name, history in histories.items() if history}
    order = sorted(logged, key=lambda name: logged[name][-1]["curriculum/step"])
    stages: list[tuple[str, float, float]] = []
    by_phase: dict[str, list[Point]] = defaultdict(list)
    for name in order:
        first = stages[-1][2] if stages else 0
        stages.append((name, first, logged[name][-1]["curriculum/step"]))
        for row in logged[name]:
            for key, value in row.items():
                # On a log scale there is no place for 0.
                if (
                    key.endswith("/loss")
                    and not key.startswith("train/")
                    and value is not None
                    and 0 < value < math.inf
                ):
                    by_phase[key.removesuffix("/loss")].append(Point(row["curriculum/step"], value))
    lines = [Series(name, f"phase-{name}", points) for name, points in by_phase.items()]
    return [losses("Loss by phase", lines, stages)] if lines else []


def _cards(
    outcomes: Sequence[Outcome], samples: Sequence[tuple[Record, bytes | None]], scenes: int, main: Sequence[str]
) -> list[Card]:
    """The first records that were asked about; each shows another kind of request, as far as it has it."""
    by_key: dict[str, dict[str, dict[str, list[Outcome]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )  # key, item, cell
    for outcome in sorted(outcomes, key=lambda outcome: outcome.turn):
        cell = f"{outcome.model}/{outcome.condition}"
        if cell in main:
            by_key[outcome.key][outcome.item][cell].append(outcome)
    cards: list[Card] = []
    for record, image in samples:
        if len(cards) < scenes and record.key in by_key:
            order = [*KINDS, *KINDS][len(cards) % len(KINDS) :]
            items = by_key[record.key].values()
            tries = min(items, key=lambda item: order.index(next(iter(item.values()))[0].kind))
            cards.append(Card(record.key, picture(record, image), [_conversation(tries, main)]))
    return cards


def _conversation(tries: Mapping[str, Tries], main: Sequence[str]) -> Conversation:
    """The first answer of every model; of the last one what was said about it, and its second try; the reference."""
    *before, last = (cell for cell in main if tries.get(cell))
    first, *later = tries[last]
    comments = [
        Comment(title, text) for title, text in (("Critique", first.critique), ("Refinement", first.refinement)) if text
    ]
    answers = [_answer(tries[cell][0].model, tries[cell][0], weight(cell, main)) for cell in before]
    answers.append(_answer(first.model, first, weight(last, main), comments))
    answers += [_answer("Second try", second, weight(last, main)) for second in later[:1]]
    answers += [Answer("Reference", first.reference, [])] if first.reference else []
    return Conversation(f"{first.kind} · {first.criterion or 'no criterion'}", [Exchange(first.user or "", answers)])


def _answer(title: str, outcome: Outcome, weight: str, comments: Sequence[Comment] = ()) -> Answer:
    return Answer(title, outcome.answer or "", [outcome.rating], comments, weight)


def _optional(file: Path) -> dict[str, Any]:
    return read_json(file) if file.exists() else {}


def _duration(seconds: float) -> str:
    total = round(seconds)
    if total < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{total} s"
    minutes, rest = divmod(total, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
