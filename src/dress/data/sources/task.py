"""`task=import`: a publisher's files become shards, with a progress bar and a table at the end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dress.data.sources import source
from dress.data.sources.importing import IMPORT_FILE, REJECTS_FILE, Imported, run_import
from dress.data.tasks import Import

T = TypeVar("T")


def run(settings: Import, console: Console) -> Imported:
    """Import with a progress bar; ends with a table.

    Raises:
        SourceError: the source is unknown, its files cannot be read, or `out` holds something else.
        OSError: no space left, or a file cannot be read.
    """
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:

        def track(items: Sequence[T], what: str) -> Iterable[T]:
            return progress.track(items, description=what)

        result = run_import(
            source(settings.source), Path(settings.path), Path(settings.out),
            overwrite=settings.overwrite, track=track,
        )  # fmt: skip
    show(result, console)
    return result


def show(result: Imported, console: Console) -> None:
    """The table: rows read, records written, rows rejected by reason."""
    out = escape(str(result.out))
    table = Table(title=out)
    table.add_column("")
    table.add_column("number", justify="right")
    table.add_row("rows read", f"{result.read:,}")
    table.add_row("rows used", f"{result.used:,}")
    for split, number in result.written.items():
        table.add_row(f"records written: {split}", f"{number:,}")
    table.add_row("rows rejected", f"{sum(result.rejected.values()):,}")
    for reason, number in result.rejected.items():
        table.add_row(f"  {escape(reason)}", f"{number:,}")
    console.print(table)
    if result.kept is not None:
        console.print(f"What stood there was no import; it is now at {escape(str(result.kept))}.")
    if result.unchanged:
        console.print("Nothing to do: it holds this import already (overwrite=true makes it anew).")
        return
    if result.rejected:
        console.print(f"Rejected rows, each with its reason: {out}/{REJECTS_FILE}")
    console.print(f"Counts and checksums: {out}/{IMPORT_FILE}")
    console.print(f"Next: python src/train.py experiment=dress_full data=shards data.path={out}")
