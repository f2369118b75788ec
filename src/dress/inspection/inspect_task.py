"""`task=inspect`: tables on the terminal and, with `out`, all figures, a page to look at, and lists of what leaked."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dress.base.files import write_json, write_lines
from dress.config.tasks import Inspect
from dress.inspection.annotators import Annotators
from dress.inspection.data_set import DataSet, Item
from dress.inspection.inspecting import Inspection, Options, inspect
from dress.inspection.tables import tables

SHOWN = 5
"""Things that cannot be read that are printed; inspect.json holds all of them."""


def run(settings: Inspect, console: Console) -> Inspection:
    """Inspect with a progress bar; ends with tables.

    Raises:
        FileNotFoundError: nothing at `path`, `other` or `beside`.
        ValueError: rows without users' texts, a set beside with other answers, the scale's package is not installed,
            or `out` is no folder.
    """
    data = DataSet(settings.path)
    other = None if settings.other is None else DataSet(settings.other)
    beside = [DataSet(path) for path in settings.beside]
    annotators = Annotators([data, *beside], settings.standard, settings.differing)
    out = None if settings.out is None else Path(settings.out)
    if out is not None and out.exists() and not out.is_dir():
        raise ValueError(f"out={out}: expected a folder, got a file")
    lengths = None
    if settings.lengths:
        from dress.inspection.lengths import Lengths, open_scale  # here: it loads transformers

        lengths = Lengths(open_scale(settings.scale, settings.model, settings.tokenizer, data))
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:

        def track(items: DataSet, what: str) -> Iterable[Item]:
            return progress.track(items, total=items.size, description=what)

        options = Options(settings.leaked_by, settings.samples, settings.max_aspect)
        inspection = inspect(data, other, lengths, track, options, annotators)
    for table in tables(inspection):
        console.print(table)
        if table.words:
            console.print(table.words, style="dim", highlight=False)
    for what in [what for one in annotators.sets for what in one.damage[:SHOWN]]:
        console.print(f"cannot be read: {what}", highlight=False)
    if out is not None:
        _write(inspection, out)
        console.print(f"Look at it: {out / 'inspect.html'}", highlight=False)
    return inspection


def _write(inspection: Inspection, out: Path) -> None:
    from dress.inspection.page import write_inspection  # late: it loads Altair and Jinja

    write_json(out / "inspect.json", inspection.to_json())
    write_inspection(out / "inspect.html", inspection)
    if inspection.leakage is not None:
        write_lines(out / "leaked.jsonl", inspection.leakage.listed(leaked=True))
        write_lines(out / "clean.jsonl", inspection.leakage.listed(leaked=False))
