"""`task=index`: shards get an `index.json`, with a progress bar and a table of what cannot be used."""

from __future__ import annotations

import tarfile
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from dress.data.index import Format, index_shard
from dress.data.index_file import INDEX, write_index
from dress.data.tasks import Index
from dress.record import Record, RecordError

SHOWN = 5
"""Problems that are printed; the index holds all of them."""


def run(settings: Index, console: Console) -> None:
    """Index every shard below a folder.

    Raises:
        FileNotFoundError: no shard there.
        ValueError: no sample in any of them.
    """
    folder = Path(settings.path)
    paths = sorted(folder.glob("**/*.tar"))
    if not paths:
        raise FileNotFoundError(f"path={folder}: expected shards (*.tar), found none")
    form = format_of(paths[0]) if settings.format == "auto" else settings.format
    entries = []
    for path in track(paths, "index", console=console, transient=True):
        stat = path.stat()
        entry = {"name": path.relative_to(folder).as_posix(), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        entries.append({**entry, **index_shard(path, form, settings.ignore)})
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


def format_of(path: Path) -> Format:
    """`records` where the first JSON of a shard is a record of ours, else `captions`."""
    try:
        with tarfile.open(path, mode="r:") as tar:
            for member in tar:
                extension = Path(member.name).name.partition(".")[2]
                file = tar.extractfile(member) if extension == "json" and member.isreg() else None
                if file is not None:
                    Record.parse(file.read(), member.name)
                    return "records"
    except (RecordError, tarfile.ReadError):
        pass
    return "captions"
