"""A sweep as a table, a page and a picture: what its runs were given, and what they reached."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dress.base.files import read_json, write_text
from dress.base.run_folder import short
from dress.report.figures import CONDITIONS, Quantity, quantities, runs_table
from dress.report.page import Page, Section, write_page
from dress.report.parallel import ParallelAxis, ParallelLine, Value, parallel_coordinates
from dress.report.picture import write_picture
from dress.report.tables import NOTHING, Cell, Head, Row, Table
from dress.run.result_rows import flat_figures
from dress.run.search import RECORD
from dress.run.sweep_runs import DrawnRun, seed_groups, short_names

AXES = 8
"""Of a chart; more would stand too close."""
ROWS = 20
"""Of a search, in the terminal."""
OBJECTIVE = ("interaction/mean_rating", 0)
"""Figure and turn that colour the lines of a sweep without an objective of its own."""
BESIDE = ("helpfulness/mean_rating", "honesty/hallucinated_share", "harmlessness/safe_share")
"""Figures that stand beside it where there is room: one of each H."""
SELECTED = (
    "The runs were compared on the held-out records that the figures are of. The best of many is better there than "
    "elsewhere: report the winner on records that no run was chosen by (docs/sweeps.md)."
)
TITLE = "What each run was given, and what it reached"
Runs = Mapping[str, Mapping[str, Any]]
"""As `sweep_runs` gives them."""


@dataclass(frozen=True)
class _Goal:
    """The figure that a sweep is about."""

    axis: ParallelAxis
    values: Mapping[str, float]  # by label of the run
    quantity: Quantity | None


def write_sweep(folder: Path, runs: Runs, drawn: Sequence[DrawnRun]) -> tuple[Table, dict[str, Path]]:
    """Write `runs.csv`, `sweep.html` and, of several runs that differ, `parallel.svg`.

    Args:
        folder: of the sweep.
        runs: the finished ones.
        drawn: all that ended.

    Returns:
        The table for the terminal, and what was written, by what it is.
    """
    record = read_json(folder / RECORD, dict) if (folder / RECORD).exists() else None
    files = {"table": folder / "runs.csv", "report": folder / "sweep.html"}
    write_text(files["table"], _csv(runs, drawn))
    settings = _settings(drawn, record)
    goal = _goal(runs, record, [axis.name for axis in settings.values()])
    figures = runs_table({label: run["metrics"] for label, run in runs.items()}, seed_groups(runs))
    charts, trials = [], None
    if goal is not None and settings:
        if len(drawn) > 1:
            axes, lines = _lines(runs, drawn, settings, goal)
            charts = [parallel_coordinates(TITLE, axes, lines)]
            files["picture"] = folder / "parallel.svg"
            write_picture(files["picture"], charts[0], max(600, 150 * len(axes)))
        if record is not None:
            trials = _trials(drawn, settings, goal)
    words = "The wide line is the best run; dashed ones ended without a figure."
    sections = [
        Section("Runs", words, "One run, or none that differ.", charts=charts),
        *([Section("Trials", "The best first.", tables=[trials])] if trials else []),
        Section("Figures", "Of the model that each run trained last.", tables=[figures]),
    ]
    failed = sum(run.failed for run in drawn)
    facts = {"folder": short(folder), "runs with figures": len(runs), "without": failed or None} | _facts(record)
    lead = _lead(runs, drawn, settings, goal) if record is not None else f"{len(runs)} runs."
    page = Page(f"{folder.name} – DRESS sweep", "DRESS sweep", folder.name, lead, sections, [SELECTED], facts)
    write_page(files["report"], page)
    return (figures if trials is None else _beginning(trials, lead)), files


def _facts(record: Mapping[str, Any] | None) -> dict[str, Any]:
    names = ("objective", "direction", "sampler", "seed")
    return {} if record is None else {name: record[name] for name in names}


def _settings(drawn: Sequence[DrawnRun], record: Mapping[str, Any] | None) -> dict[str, ParallelAxis]:
    """The axis of each setting that differs, by its dotted key."""
    given = {} if record is None else record["params"]
    keys = list(given) or list(dict.fromkeys(key for run in drawn for key in run.values))
    names = short_names(keys)
    return {key: _axis(names[key], given.get(key), [run.values.get(key) for run in drawn]) for key in keys}


def _axis(name: str, given: Mapping[str, Any] | None, values: Sequence[Value]) -> ParallelAxis:
    """Of a search as it was given; else of numbers where all of them are some."""
    if given is not None:
        return ParallelAxis(name, given.get("choices", ()), given.get("log", False))
    texts = [str(value) for value in values if value is not None]
    numbers = [number for text in texts if (number := _number(text)) is not None]
    if len(numbers) < len(texts):
        return ParallelAxis(name, list(dict.fromkeys(texts)))
    return ParallelAxis(name, log=min(numbers) > 0 and max(numbers) >= 10 * min(numbers))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _value(axis: ParallelAxis, value: Value) -> Value:
    return value if value is None or axis.choices else float(value)


def _listed(runs: Runs) -> list[Quantity]:
    """What was measured of the models that were trained last."""
    return quantities({CONDITIONS: {label: _last(run["metrics"])[1] for label, run in runs.items()}})


def _last(metrics: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    models = [name for name in metrics if name != CONDITIONS]
    return (models[-1], metrics[models[-1]]) if models else ("", {})


def _goal(runs: Runs, record: Mapping[str, Any] | None, taken: Sequence[str]) -> _Goal | None:
    """What the runs are compared by; None where nothing was measured."""
    listed = _listed(runs)
    if record is None:
        found = [one for one in listed if (one.key, one.turn or 0) == OBJECTIVE] or listed
        if not found:
            return None
        values = {label: found[0].figure(_last(run["metrics"])[1]).get("value") for label, run in runs.items()}
        known = {label: value for label, value in values.items() if value is not None}
        axis = ParallelAxis(found[0].name, share=found[0].share, up=found[0].up)
        return _Goal(axis, known, found[0]) if known else None
    objective, up = str(record["objective"]), record["direction"] == "maximize"
    _, model, key = objective.split("/", 2)
    places = {one.key if one.turn is None else f"{one.key}/turn_{one.turn}": one for one in listed}
    quantity = places.get(key)
    name = key if quantity is None else quantity.name
    if any(model != _last(run["metrics"])[0] for run in runs.values()) or name in taken:
        name, quantity = f"{model}: {name}", None
    share = quantity is not None and quantity.share
    reached = {str(trial["number"]): trial["value"] for trial in record["trials"] if trial["value"] is not None}
    return _Goal(ParallelAxis(name, share=share, up=up), reached, quantity)


def _lines(
    runs: Runs, drawn: Sequence[DrawnRun], settings: Mapping[str, ParallelAxis], goal: _Goal
) -> tuple[list[ParallelAxis], list[ParallelLine]]:
    """Axes of a chart and a line for each run: settings, figures beside the goal where there is room, the goal."""
    room = AXES - len(settings) - 1
    names = {axis.name for axis in settings.values()} | {goal.axis.name}
    beside = [one for one in _listed(runs) if one.key in BESIDE and one != goal.quantity and one.name not in names]
    beside = beside[: max(0, room)]
    axes = [*settings.values(), *(ParallelAxis(one.name, share=one.share, up=one.up) for one in beside), goal.axis]
    lines = []
    for run in drawn:
        figures = _last(runs[run.label]["metrics"])[1] if run.label in runs else {}
        given = [_value(axis, run.values.get(key)) for key, axis in settings.items()]
        lines.append(
            ParallelLine(
                run.label, [*given, *(one.figure(figures).get("value") for one in beside), goal.values.get(run.label)]
            )
        )
    return axes, lines


def _ranked(drawn: Sequence[DrawnRun], goal: _Goal) -> list[DrawnRun]:
    """The best first; those without a figure last."""
    with_figure = [run for run in drawn if run.label in goal.values]
    with_figure.sort(key=lambda run: goal.values[run.label], reverse=bool(goal.axis.up))
    return [*with_figure, *(run for run in drawn if run.label not in goal.values)]


def _trials(drawn: Sequence[DrawnRun], settings: Mapping[str, ParallelAxis], goal: _Goal) -> Table:
    """A row for each trial of a search, the best first."""
    rows = []
    for number, run in enumerate(_ranked(drawn, goal)):
        given = [axis.text(_value(axis, run.values.get(key))) for key, axis in settings.items()]
        reached = goal.axis.text(goal.values[run.label]) if run.label in goal.values else NOTHING
        name = f"{run.label} (failed)" if run.failed else run.label
        rows.append(Row(Head(name, weight="" if number else "main"), [Cell(text) for text in (*given, reached)]))
    columns = [*(Head(axis.name) for axis in settings.values()), Head(goal.axis.name, up=goal.axis.up)]
    return Table("trial", columns, rows)


def _beginning(trials: Table, lead: str) -> Table:
    """What the terminal has room for."""
    left = len(trials.rows) - ROWS
    title = lead if left <= 0 else f"{lead} The best {ROWS}:"
    return Table(trials.corner, trials.columns, trials.rows[:ROWS], title)


def _lead(runs: Runs, drawn: Sequence[DrawnRun], settings: Mapping[str, ParallelAxis], goal: _Goal | None) -> str:
    """The winner, in a sentence."""
    if goal is None or not goal.values:
        return f"{len(runs)} trials."
    best = _ranked(drawn, goal)[0]
    given = ", ".join(f"{axis.name} {axis.text(_value(axis, best.values.get(k)))}" for k, axis in settings.items())
    reached = f"{goal.axis.title} {goal.axis.text(goal.values[best.label])}"
    return f"The best of {len(drawn)} trials is number {best.label}: {reached} with {given}."


def _csv(runs: Runs, drawn: Sequence[DrawnRun]) -> str:
    """A row for each run: its folder, what it was given, and every figure of it."""
    figures = {label: flat_figures(run["metrics"]) for label, run in runs.items()}
    settings = list(dict.fromkeys(key for run in drawn for key in run.values))
    names = list(dict.fromkeys(name for one in figures.values() for name in one))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["run", "run_dir", "failed", *settings, *names])
    for run in drawn:
        of_run = figures.get(run.label, {})
        given = [run.values.get(key, "") for key in settings]
        writer.writerow([run.label, str(run.folder), run.failed, *given, *(of_run.get(name, "") for name in names)])
    return out.getvalue()
