"""`task=index`: shards get an `index.json`, with a progress bar and a table of what cannot be used."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from dress.config.tasks import Index
from dress.data.index import Format, detect_format, index_shard
from dress.data.index_file import INDEX, known_checksums, write_index
from dress.data.shards import check_shard

SHOWN = 5
"""Problems that are printed; the index holds all of them."""


def run(settings: Index, console: Console) -> None:
    """Index every shard below a folder.

    Raises:
        FileNotFoundError: no shard there.
        ValueError: no sample in any of them, or a shard is no regular file.
    """
    folder = Path(settings.path)
    paths = sorted(folder.glob("**/*.tar"))
    if not paths:
        raise FileNotFoundError(f"path={folder}: expected shards (*.tar), found none")
    for path in paths:
        check_shard(path)
    form: Format
    if settings.format == "auto":
        form = next((kind for path in paths if (kind := detect_format(path, settings.ignore))), "captions")
    else:
        form = settings.format
    sums = known_checksums(folder)
    entries: list[dict[str, Any]] = []
    for path in track(paths, "index", console=console, transient=True):
        stat = path.stat()
        entry: dict[str, Any] = {
            "name": path.relative_to(folder).as_posix(),
            "size": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
        }
        entry |= index_shard(path, form, settings.ignore, images=True)
        expected = sums.get(str(entry["name"]), entry["sha256"])
        if entry["sha256"] != expected:
            entry["problems"].append(("", f"expected sha256 {expected[:12]} as noted beside it, got another"))
            entry["samples"] = []
        entries.append(entry)
    samples = sum(len(entry["samples"]) for entry in entries)
    problems = [(entry["name"], *problem) for entry in entries for problem in entry["problems"]]
    if not samples:
        raise ValueError(f"{folder}: format={form}: expected samples, got none: {problems[:1]}")
    write_index(folder / INDEX, entries, form, settings.ignore)
    table = Table(title=str(folder))
    table.add_column("")
    table.add_column("number", justify="right")
    for name, number in (("shards", len(paths)), (f"samples ({form})", samples), ("problems", len(problems))):
        table.add_row(name, f"{number:,}")
    for reason, number in Counter(reason for *_, reason in problems).most_common():
        table.add_row(f"  {reason[:80]}", f"{number:,}")
    console.print(table)
    for name, member, reason in problems[:SHOWN]:
        console.print(f"{name}: {member}: {reason}", highlight=False)
    if problems:
        console.print("Training stops at these; data.on_damage=skip passes over them and counts them.")
    console.print(f"index: {folder / INDEX}", highlight=False)
