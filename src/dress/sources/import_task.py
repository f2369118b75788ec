"""`task=import`: a publisher's files become shards, with a progress bar and a table at the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dress.base.parts import Part
from dress.base.progress import LINE_EVERY
from dress.config import check_as
from dress.config.tasks import Import, Merge
from dress.sources import source_of
from dress.sources.destination import IMPORT_FILE, ImportResult
from dress.sources.importing import REJECTS_FILE, run_import
from dress.sources.own_rows import OwnRows
from dress.sources.parts import PartResult, import_part, merge_parts, settings_of
from dress.sources.preview import show_preview
from dress.sources.protocol import SourceError
from dress.sources.worker import CRITIQUES, RATINGS, REFERENCES


def run(settings: Import, console: Console) -> ImportResult | PartResult | None:
    """Import with a progress bar; a table of columns and three records before it, a table of counts after it.

    Returns:
        What was written; None for a preview.

    Raises:
        SourceError: the source is unknown, its files cannot be read, or `out` holds something else.
        OSError: no space left, or a file cannot be read.
    """
    source = source_of(settings)
    if isinstance(source, OwnRows):
        if not Path(settings.path).exists():
            raise SourceError(f"path={settings.path}: expected a folder or a file, found none")
        show_preview(source, settings, console)
    if settings.preview:
        if not isinstance(source, OwnRows):
            raise SourceError(f"preview=true: expected source=rows or a mapping, got source={settings.source}")
        console.print("Nothing was written (preview=true).")
        return None
    if settings.part is not None:
        with _Bars(console) as progress:
            part = import_part(source, settings, progress)
        done = "finished before" if part.unchanged else f"{part.rows:,} rows, {part.rejected:,} of them rejected, and "
        done += "" if part.unchanged else f"{part.images:,} images looked at"
        console.print(f"part {settings.part}: {done}: {part.folder}", highlight=False, markup=False, soft_wrap=True)
        return part
    try:
        with _Bars(console) as progress:
            result = run_import(source, settings, progress)
    except (KeyboardInterrupt, OSError):
        aside = Path(settings.out + ".partial")
        if aside.exists():
            message = f"What was done is kept in {aside}; the same command goes on there."
            console.print(message, highlight=False)
        raise
    show(result, console)
    return result


def merge(parts: Sequence[Part], settings: Merge, console: Console) -> ImportResult:
    """Make of all parts what one process would have written to `settings.out`; ends with its table.

    Raises:
        SourceError: the input or a part changed since the parts were made, or see `run`.
    """
    whole = check_as(Import, settings_of(parts[0], settings.out, settings.workers))
    with _Bars(console) as progress:
        result = merge_parts(parts, source_of(whole), whole, progress)
    show(result, console)
    return result


class _Bars:
    """A bar on a terminal; elsewhere a line now and then."""

    def __init__(self, console: Console) -> None:
        text = TextColumn("{task.description}", markup=False)
        columns = text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self._bars = Progress(*columns, console=console, transient=True)
        self._console, self._step, self._total, self._done = console, "", 0, 0
        self._line = time.monotonic()

    def __enter__(self) -> _Bars:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._console.is_terminal:
            self._bars.stop()

    def start(self, step: str, total: int) -> None:
        """See `importing.Progress`."""
        self._step, self._total, self._done = step, total, 0
        self._task = self._bars.add_task(step, total=total)

    def advance(self, number: int) -> None:
        """See `importing.Progress`."""
        self._done += number
        self._bars.advance(self._task, number)
        if not self._console.is_terminal and time.monotonic() - self._line > LINE_EVERY:
            self._line = time.monotonic()
            self._console.print(f"{self._step}: {self._done:,} of {self._total:,}", highlight=False)

    def end(self) -> None:
        """See `importing.Progress`."""
        self._bars.remove_task(self._task)


def show(result: ImportResult, console: Console) -> None:
    """The table: rows read, records written, rows rejected by reason."""
    out = str(result.out)
    table = Table(title=out)
    table.add_column("")
    table.add_column("number", justify="right")
    table.add_row("rows read", f"{result.read:,}")
    table.add_row("rows used", f"{result.used:,}")
    for split, number in result.written.items():
        table.add_row(f"records written: {split}", f"{number:,}")
        if split == "eval" and number and REFERENCES in result.held:
            table.add_row("  eval: with a reference", f"{result.held[REFERENCES]:,} of {number:,}")
    table.add_row("rows rejected", f"{sum(result.rejected.values()):,}")
    for reason, number in result.rejected.items():
        table.add_row(f"  {reason}", f"{number:,}")
    for what, number in result.noted.items():
        table.add_row(what, f"{number:,}")
    console.print(table)
    if result.moved_to is not None:
        console.print(f"What stood there was no import; it is now at {result.moved_to}.")
    if result.unchanged:
        console.print("Nothing to do: it holds this import already (overwrite=true makes it anew).")
        return
    if result.rejected:
        console.print(f"Rejected rows, each with its reason: {out}/{REJECTS_FILE}")
    console.print(f"Counts and checksums: {out}/{IMPORT_FILE}")
    if result.written.get("eval") and result.held.get(REFERENCES) == 0:
        console.print(
            "No record of eval has a reference, so answers are measured only as far as a judge rates them "
            "(judge=llm, docs/feedback.md).", highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip
    if command := next_command(result):
        console.print(f"Next: {command}", highlight=False, markup=False, soft_wrap=True)  # to be copied whole


def next_command(result: ImportResult) -> str:
    """What to do with an import now; empty where it cannot be trained on by itself."""
    written = {split for split, number in result.written.items() if number}
    if {"align", "sft", "prompts", "eval"} <= written and "feedback" not in written:
        experiment, reads = "dress_full", written
    elif "feedback" in written:
        experiment, reads = "given_feedback", {"align", "sft", "eval"}
    else:
        experiment, reads = "sft_only", {"align", "eval"}
    if {"feedback", "sft"} & written:
        missing = sorted(reads - written)
        more = f" 'curriculum.without=[{','.join(missing)}]'" if missing else ""
        if "feedback" in written and result.held.get(RATINGS) and not result.held.get(CRITIQUES):
            more += " phases.critique.condition=rating"  # nothing else is said of the answers
        return f"python src/train.py experiment={experiment} data=shards data.path={result.out}{more}"
    return f"python src/prepare.py task=inspect path={result.out}"
