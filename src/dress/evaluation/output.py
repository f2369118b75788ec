"""What every suite ends with: `outcomes.jsonl`, `suite.json`, `run.json` in `out`, and its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dress.base.files import read_json, write_json
from dress.evaluation.suites import outcome
from dress.evaluation.suites.measures import Measure, Suite, summary
from dress.evaluation.suites.outcome import SuiteOutcome
from dress.evaluation.suites.reading import fingerprint
from dress.evaluation.suites.settings import SUITES, SuiteSettings
from dress.report.tables import NOTHING

OUTCOMES, BASELINE, FIGURES, RUN = "outcomes.jsonl", "baseline.jsonl", "suite.json", "run.json"
_SHOWN = 3
"""Failures of one reason that are named in the terminal; outcomes.jsonl names all."""


def finish(suite: Suite, outcomes: Sequence[SuiteOutcome], settings: SuiteSettings, console: Console) -> dict[str, Any]:
    """Write the outcomes, compute the figures from them, write and print those.

    Returns:
        What suite.json holds.

    Raises:
        FileNotFoundError, ValueError: the baseline is no output of this suite.
    """
    out = Path(settings.out)
    baseline = None if settings.baseline is None else _baseline(suite, Path(settings.baseline))
    outcome.save(out / OUTCOMES, outcomes)
    (out / BASELINE).unlink(missing_ok=True)
    if baseline is not None:
        outcome.save(out / BASELINE, baseline)
    result = summary(suite, outcomes, baseline)
    write_json(out / FIGURES, result)
    write_json(out / RUN, {"settings": settings.model_dump(), "files": _files(settings)})
    print_figures(suite, outcomes, result, str(settings.baseline), console)
    say(f"figures: {out / FIGURES}; every sample: {out / OUTCOMES}", console)
    return result


def recompute(folder: Path) -> dict[str, Any]:
    """What `suite.json` of this folder must hold, from its `outcomes.jsonl` (and `baseline.jsonl`).

    Raises:
        FileNotFoundError: the folder holds no output of a suite.
        ValueError: a damaged file.
    """
    module = import_module(SUITES[read_figures(folder)["suite"]][1])
    if hasattr(module, "recompute"):  # it is made of the outputs of several suites
        return module.recompute(folder)
    theirs = folder / BASELINE
    return summary(module.SUITE, outcome.load(folder / OUTCOMES), outcome.load(theirs) if theirs.exists() else None)


def read_figures(folder: Path) -> dict[str, Any]:
    """`suite.json` of an earlier evaluation.

    Raises:
        FileNotFoundError, ValueError: none there, or not written by a suite.
    """
    file = folder / FIGURES
    if not file.exists():
        raise FileNotFoundError(f"{folder}: expected the output of a suite ({FIGURES}), found none")
    found = read_json(file)
    if not isinstance(found, dict) or found.get("suite") not in SUITES:
        raise ValueError(f"{file}: expected the figures of a suite, one of {', '.join(SUITES)}")
    return found


def _baseline(suite: Suite, folder: Path) -> list[SuiteOutcome]:
    name = read_figures(folder)["suite"]
    if name != suite.name:
        raise ValueError(f"baseline={folder}: expected an output of suite={suite.name}, got one of suite={name}")
    return outcome.load(folder / OUTCOMES)


def _files(settings: SuiteSettings) -> dict[str, str]:
    """Path and sha256 of every file among the settings."""
    values = settings.model_dump(exclude={"out"}).values()
    paths = [path for value in values for path in (value if isinstance(value, list | tuple) else [value])]
    return {path: fingerprint(path) for path in paths if isinstance(path, str) and Path(path).is_file()}


def print_figures(
    suite: Suite, outcomes: Sequence[SuiteOutcome], result: Mapping[str, Any], baseline: str, console: Console
) -> None:
    """The figures, their differences to a baseline, and what was not counted."""
    measures = suite.measures(outcomes)
    named = (("responder", "responder"), ("judge", "judge"), ("prompts", "prompt_hash"), ("runs", "runs"))
    who = [f"{name} {result[key]}" for name, key in named if result[key] not in (None, 1)]
    say("; ".join([f"suite {result['suite']}: value, n and 95 % interval", *who]), console)
    console.print(_figures_table(result, measures))
    if "comparison" in result:
        found = result["comparison"]
        alone = f"{found['only_here']} only here, {found['only_baseline']} only there"
        say(f"minus {baseline}: {found['pairs']:,} pairs, {alone}; paired bootstrap, 95 %", console)
        console.print(_comparison_table(found, measures))
    if result["failed"]:
        say("not counted", console)
        console.print(_failures_table(result["failed"], outcomes))


def _figures_table(result: Mapping[str, Any], measures: Sequence[Measure]) -> Table:
    """A row per figure, a column for all and for each category."""
    categories = _categories(result)
    table = _table("", "mean" if "mean_over" in result else "all", *categories)
    sets = [result, *categories.values()]
    for measure in measures:
        table.add_row(_name(measure), *(_cell(measure, figures) for figures in sets))
    table.add_section()
    for key in ("n", "failures"):
        table.add_row(f"  {key}", *(Text(f"{figures[key]:,}", style=_alarm(key, figures)) for figures in sets))
    return table


def _comparison_table(comparison: Mapping[str, Any], measures: Sequence[Measure]) -> Table:
    categories = _categories(comparison)
    table = _table("", "mean" if "mean_over" in comparison else "all", *categories)
    for measure in measures:
        found = [figures["differences"].get(measure.key, {}) for figures in (comparison, *categories.values())]
        table.add_row(_name(measure), *(_difference(measure, figure) for figure in found))
    return table


def _failures_table(failed: Mapping[str, int], outcomes: Sequence[SuiteOutcome]) -> Table:
    """Each reason, how often, and where first."""
    table = _table("reason", "number", "for example")
    table.columns[-1].justify = "left"
    for reason, number in failed.items():
        named = [o.where or o.key for o in outcomes if o.failed == reason][:_SHOWN]
        table.add_row(Text(reason), f"{number:,}", Text(", ".join(named)))
    return table


def value(measure: Measure, number: float | None, sign: bool = False) -> str:
    """As tables show it: 87.1, 0.52, or a dash."""
    if number is None:
        return NOTHING
    shown = 100 * number if measure.per_cent else number
    return f"{shown:{'+' if sign else ''}.{1 if measure.per_cent else 2}f}"


def say(line: str, console: Console) -> None:
    """A line of plain text that is not wrapped, so that paths can be copied."""
    console.print(line, style="dim", highlight=False, markup=False, soft_wrap=True)


def _categories(result: Mapping[str, Any]) -> dict[str, Any]:
    """Sets of figures by category, without what all names begin with; none where there is one category only."""
    found = result["by_category"]
    if len(found) < 2:
        return {}
    first, last = min(found), max(found)
    same = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
    return {name[first.rfind("_", 0, same) + 1 :]: figures for name, figures in found.items()}


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for number, name in enumerate(columns):
        table.add_column(Text(name, overflow="fold"), justify="right" if number else "left", overflow="fold")
    return table


def _name(measure: Measure) -> str:
    arrow = {True: "↑", False: "↓", None: " "}[measure.up]
    return f"{arrow} {measure.name}{', %' if measure.per_cent else ''}"


def _cell(measure: Measure, figures: Mapping[str, Any]) -> Text:
    text = Text(value(measure, figures.get(measure.key)), style="bold")
    if n := figures["counted"].get(measure.key):
        low, high = figures["intervals"][measure.key]
        text.append(f" n {n:,}\n{value(measure, low)}–{value(measure, high)}", style="not bold dim")
    return text


def _difference(measure: Measure, figure: Mapping[str, Any]) -> Text:
    text = Text(value(measure, figure.get("value"), sign=True), style="bold")
    if figure.get("value") is not None:
        low, high = (value(measure, figure[end], sign=True) for end in ("low", "high"))
        text.append(f"\n{low} to {high}", style="not bold dim")
    return text


def _alarm(key: str, figures: Mapping[str, Any]) -> str:
    return "bold red" if key == "failures" and figures[key] else ""
