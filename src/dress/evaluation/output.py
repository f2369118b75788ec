"""What a suite ends with: `outcomes.jsonl`, `suite.json`, `run.json` and `suite.html` in `out`, and its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from dress.base.files import checksum, read_json, write_json
from dress.evaluation.measures import Measure
from dress.evaluation.outcomes import Outcome, failures, load_outcomes, once, save_outcomes
from dress.evaluation.settings import Measured, SuiteSettings
from dress.evaluation.suite import Json, Outcomes, Suite, registered
from dress.evaluation.summary import summary
from dress.report.tables import NOTHING, Cell, Head, Row, Table

if TYPE_CHECKING:
    from dress.evaluation.suite_page import Shortfall

OUTCOMES, BASELINE, FIGURES, RUN = "outcomes.jsonl", "baseline.jsonl", "suite.json", "run.json"
_SHOWN = 3
"""Failures of one reason that are named in the terminal; outcomes.jsonl names all."""


def finish(suite: Suite, outcomes: Outcomes, settings: Measured, console: Console) -> Json:
    """Write the outcomes, compute the figures from them, write and print those.

    Returns:
        What suite.json holds.

    Raises:
        FileNotFoundError, ValueError: the baseline is no output of this suite, or nothing was counted (after all is
            written that says why).
    """
    from dress.evaluation.suite_page import PAGE, Shortfall, image_files, write_suite_page  # draws: slow to load

    out, compared_with = Path(settings.out), settings.baseline
    baseline = None if compared_with is None else _baseline(suite, Path(compared_with))
    outcomes = once(outcomes)
    save_outcomes(out / OUTCOMES, outcomes)
    (out / BASELINE).unlink(missing_ok=True)
    if baseline is not None:
        save_outcomes(out / BASELINE, baseline)
    result = summary(suite, outcomes, baseline)
    write_json(out / suite.file, result)
    write_json(out / RUN, {"settings": settings.model_dump(), "files": _files(settings)})
    measures = suite.measures_of(outcomes)
    short = Shortfall(measures, outcomes, baseline or [], settings.failures)
    tables = _tables(measures, outcomes, result, str(compared_with), short)
    _print_tables(tables, result, console)
    pictures = (
        partial(suite.pictures, settings) if suite.pictures else partial(image_files, getattr(settings, "images", None))
    )
    write_suite_page(out / PAGE, suite.name, tables, _facts(result), short, pictures)
    say(f"figures: {out / suite.file}; every sample: {out / OUTCOMES}; the page: {out / PAGE}", console)
    if not result["n"]:
        raise ValueError(f"suite={suite.name}: n = 0, nothing was counted: {_reasons(outcomes)}; see {out / OUTCOMES}")
    return result


def _reasons(outcomes: Outcomes) -> str:
    """Why nothing was counted: each reason, how often, and of which samples first."""
    reasons = failures(outcomes)
    named = {reason: [o.item for o in outcomes if o.failed == reason][:_SHOWN] for reason in reasons}
    return "; ".join(f"{reason} ({n:,}: {', '.join(named[reason])})" for reason, n in reasons.items()) or "no samples"


def recompute(folder: Path) -> Json:
    """What the figures of this folder must be, from its `outcomes.jsonl` (and `baseline.jsonl`).

    Raises:
        FileNotFoundError: the folder holds no output of a suite.
        ValueError: a damaged file, or the output of a suite that nothing registers.
    """
    suite = suite_of(folder)
    if suite.compute:
        return suite.compute(folder)
    theirs = folder / BASELINE
    return summary(suite, load_outcomes(folder / OUTCOMES), load_outcomes(theirs) if theirs.exists() else None)


def suite_of(folder: Path) -> Suite:
    """The suite that wrote a folder; one outside of this package must have been registered (nothing read is imported).

    Raises:
        FileNotFoundError, ValueError: none there, or not written by a suite.
    """
    known, file = registered(), folder / FIGURES
    own = next((s for s in known.values() if s.file != FIGURES and (folder / s.file).exists()), None)
    if own is not None:
        return own
    if not file.exists():
        raise FileNotFoundError(f"{folder}: expected the output of a suite ({FIGURES}), found none")
    result = read_json(file)
    if not isinstance(result, dict) or result.get("suite") not in known:
        raise ValueError(f"{file}: expected the figures of a suite, one of {', '.join(known)}")
    return known[result["suite"]]


def _baseline(suite: Suite, folder: Path) -> list[Outcome]:
    name = suite_of(folder).name
    if name != suite.name:
        raise ValueError(f"baseline={folder}: expected an output of suite={suite.name}, got one of suite={name}")
    return load_outcomes(folder / OUTCOMES)


def _files(settings: SuiteSettings) -> dict[str, str]:
    """Path and sha256 of every file among the settings."""
    values = settings.model_dump(exclude={"out"}).values()
    paths = [path for value in values for path in (value if isinstance(value, list | tuple) else [value])]
    return {path: checksum(Path(path)) for path in paths if isinstance(path, str) and Path(path).is_file()}


def _facts(result: Json) -> dict[str, Any]:
    """Who answered and who judged."""
    names = {"responder": "responder", "judge": "judge", "prompts": "prompt_hash", "runs": "runs"}
    return {name: result[key] for name, key in names.items() if result[key] not in (None, 1)}


def _tables(
    measures: Sequence[Measure], outcomes: Outcomes, result: Json, baseline: str, short: Shortfall
) -> list[Table]:
    """The figures, their differences to a baseline, and what was not counted."""
    tables = [_figures_table(result, measures, short)]
    if "comparison" in result:
        tables.append(_comparison_table(result["comparison"], measures, baseline))
    if result["failed"]:
        tables.append(_failures_table(result["failed"], outcomes, short))
    return tables


def _print_tables(tables: Sequence[Table], result: Json, console: Console) -> None:
    who = [f"{name} {value}" for name, value in _facts(result).items()]
    say("; ".join([f"suite {result['suite']}: value, n and 95 % interval", *who]), console)
    for table in tables:
        console.print(table)


def _figures_table(result: Json, measures: Sequence[Measure], short: Shortfall) -> Table:
    """A row per figure, a column for all and for each category; the first leads to what it is short of."""
    sets = _columns(result)
    rows = []
    for measure in measures:
        first, *others = (_cell(measure, figures) for figures in sets.values())
        rows.append(Row(_head(measure), [replace(first, link=short.link(measure.key)), *others]))
    for key in ("n", "failures"):
        weight = "alarm" if key == "failures" else ""
        cells = [Cell(f"{figures[key]:,}", weight=weight if figures[key] else "") for figures in sets.values()]
        rows.append(Row(Head(key, weight="total" if key == "n" else ""), cells))
    return Table("", [Head(name) for name in sets], rows)


def _comparison_table(comparison: Json, measures: Sequence[Measure], baseline: str) -> Table:
    """The differences to a baseline, as `_figures_table` has the figures."""
    sets = _columns(comparison)
    rows = [
        Row(_head(m), [_difference(m, figures["differences"].get(m.key, {})) for figures in sets.values()])
        for m in measures
    ]
    alone = f"{comparison['only_here']} only here, {comparison['only_baseline']} only there"
    title = f"minus {baseline}: {comparison['pairs']:,} pairs, {alone}; paired bootstrap, 95 %"
    return Table("", [Head(name) for name in sets], rows, title)


def _failures_table(failed: Mapping[str, int], outcomes: Outcomes, short: Shortfall) -> Table:
    """Each reason, how often, and where first."""
    places = {reason: [o.where or o.item for o in outcomes if o.failed == reason][:_SHOWN] for reason in failed}
    rows = [
        Row(Head(reason), [Cell(f"{number:,}", link=short.link(reason)), Cell(", ".join(places[reason]))])
        for reason, number in failed.items()
    ]
    return Table("reason", [Head("number"), Head("for example")], rows, "not counted")


def say(line: str, console: Console) -> None:
    """A line of plain text that is not wrapped, so that paths can be copied."""
    console.print(line, style="dim", highlight=False, markup=False, soft_wrap=True)


def _columns(result: Json) -> dict[str, Json]:
    """Sets of figures by the name of their column: over all, and of each category where there are several."""
    columns = {"mean" if "mean_over" in result else "all": result}
    categories = result["by_category"]
    if len(categories) < 2:
        return columns
    first, last = min(categories), max(categories)
    same = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
    # What all names begin with is left out.
    return columns | {name[first.rfind("_", 0, same) + 1 :]: figures for name, figures in categories.items()}


def _head(measure: Measure) -> Head:
    return Head(f"{measure.name}{', %' if measure.per_cent else ''}", up=measure.up)


def _text(measure: Measure, number: float | None, sign: bool = False) -> str:
    """87.1, 0.52, or a dash."""
    if number is None:
        return NOTHING
    shown = 100 * number if measure.per_cent else number
    return f"{shown:{'+' if sign else ''}.{1 if measure.per_cent else 2}f}"


def _cell(measure: Measure, figures: Json) -> Cell:
    low, high = figures["intervals"].get(measure.key, (None, None))
    n = figures["counted"].get(measure.key)
    interval = f"{_text(measure, low)}–{_text(measure, high)}" if n and low is not None else ""
    return Cell(_text(measure, figures.get(measure.key)), interval, n)


def _difference(measure: Measure, figure: Mapping[str, float | None]) -> Cell:
    interval = " to ".join(_text(measure, figure.get(end), sign=True) for end in ("low", "high"))
    value = figure.get("value")
    return Cell(_text(measure, value, sign=True), "" if value is None else interval)
