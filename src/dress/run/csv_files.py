"""A run's CSV files: a folder of curves for each stage, and beside them figures and tables of its end."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dress.base.files import write_aside
from dress.run.panels import X_AXIS
from dress.run.run_results import RunResults


def points(file: Path, last: int) -> list[dict[str, float]]:
    """The points up to a step of a file that is about to be written anew; takes the file away."""
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8") as text:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(text)]
    file.unlink()  # Lightning would delete it with a warning
    return [row for row in rows if row.get(X_AXIS, row["step"]) <= last]


def write_results(folder: Path, results: RunResults) -> None:
    """Write the end of a run: `metrics.csv` (a row under the names of the curves' kind), and a file for each table.

    Args:
        folder: of the logger: `csv/` of a run.
        results: of the run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    flat = {X_AXIS: results.step, **results.figures}
    _write(folder / "metrics.csv", list(flat), [list(flat.values())])
    for name, table in results.tables.items():
        _write(folder / f"{name.rpartition('/')[2]}.csv", table.columns, table.rows)
    names = list(dict.fromkeys(name for row in results.collected for name in row))
    _write(folder / "collected.csv", names, ([row.get(name) for name in names] for row in results.collected))
    _write(folder / "samples.csv", results.samples.columns, (row.values for row in results.samples.rows))


def _write(file: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    if not columns:
        return
    with write_aside(file) as aside, aside.open("w", newline="", encoding="utf-8") as text:
        csv.writer(text).writerows([columns, *rows])
