"""`task=export`: shards become another format, with a progress bar and a table of what is in it and what is not."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dress.base.files import checksum, write_json, write_text
from dress.config.tasks import Export
from dress.data.splits import open_splits
from dress.exports import conversations, dataset, lvlm_nlf_rows, record_rows
from dress.exports.writing import IMAGES, Writing, check_place

SUMS_FILE = "SHA256SUMS"
REPORT_FILE = "export.json"


def run(settings: Export, console: Console) -> None:
    """Write aside and rename: `out` is the whole export, or is not there.

    Raises:
        ValueError: `out` holds something, or nothing of the shards has a place in the format.
        FileNotFoundError: no shards.
        ShardError, RecordError: something is damaged, and `on_damage` is `stop`.
    """
    source, out = Path(settings.path), Path(settings.out)
    _check_out(source, out)
    splits = open_splits(settings.path, settings.on_damage, "full" if settings.format == "dataset" else "quick")
    formats: dict[str, Callable[[Writing], None]] = {
        "records": record_rows.write,
        "lvlm_nlf": lvlm_nlf_rows.write,
        "llava": conversations.write_llava,
        "messages": conversations.write_messages,
        "dataset": partial(
            dataset.write, source=source, title=settings.title or out.name, license=settings.license or ""
        ),
    }
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    aside = out.with_name(out.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)  # of an export that was killed
    aside.mkdir(parents=True)
    try:
        with Progress(*columns, console=console, transient=True) as progress:

            def track(items: Sequence[Any], what: str) -> Iterable[Any]:
                return progress.track(items, description=what)

            to = Writing(aside, splits, track, settings.images, settings.on_damage)
            try:
                formats[settings.format](to)
            finally:
                to.close()
        damage = [what for shards in splits.values() for what in shards.damage]
        if not sum(to.rows.values()):
            raise ValueError(f"format={settings.format}: expected something to export, got none: {_reasons(to)}")
        _report(to, settings.format, damage)
        aside.replace(out)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    _show(to, settings.format, out, damage, console)


def _check_out(source: Path, out: Path) -> None:
    check_place(out)
    if out.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"out={out} lies in path={source}: expected another place")


def _reasons(to: Writing) -> dict[str, int]:
    return dict(Counter(left["reason"] for left in to.left_out).most_common()) | _no_place(to)


def _no_place(to: Writing) -> dict[str, int]:
    return {what: number for what, number in to.no_place.items() if number}


def _report(to: Writing, form: str, damage: list[str]) -> None:
    """`export.json`; for a dataset, which is published, checksums instead, and the rest only if there is any."""
    report = {
        "format": form, "rows": dict(to.rows), "no_place": _no_place(to), "left_out": to.left_out, "damage": damage,
    }  # fmt: skip
    if form != "dataset" or to.left_out or damage:
        write_json(to.folder / REPORT_FILE, report)
    if form == "dataset":
        files = sorted(path for path in to.folder.rglob("*") if path.is_file())
        lines = [f"{checksum(path)}  {path.relative_to(to.folder).as_posix()}\n" for path in files]
        write_text(to.folder / SUMS_FILE, "".join(lines))


def _show(to: Writing, form: str, out: Path, damage: list[str], console: Console) -> None:
    table = Table(title=f"{out} ({form})")
    table.add_column("")
    table.add_column("number", justify="right")
    for name, number in to.rows.items():
        table.add_row(f"records: {name}" if form == "dataset" else f"rows: {name}", f"{number:,}")
    if (out / IMAGES).is_dir():
        table.add_row(f"files: {IMAGES}/", f"{sum(path.is_file() for path in (out / IMAGES).rglob('*')):,}")
    sections = (
        ("left out", Counter(left["reason"] for left in to.left_out)),
        ("no place in this format", Counter(_no_place(to))),
        ("damaged and passed over", Counter({"members of shards": len(damage)} if damage else {})),
    )
    for title, numbers in sections:
        if numbers:
            table.add_section()
            table.add_row(title, f"{sum(numbers.values()):,}")
            for what, number in numbers.most_common():
                table.add_row(f"  {what}", f"{number:,}")
    console.print(table)
    if (out / REPORT_FILE).exists():
        console.print(f"Counts, and what was left out: {out / REPORT_FILE}", highlight=False)
    if form == "dataset":
        console.print(f"Before you publish it, read {out / 'README.md'}", highlight=False)
