"""`task=index`: shards get an `index.arrow`, with a progress bar and a table of what cannot be used."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
from rich.console import Console
from rich.progress import track
from rich.table import Table

from dress.config.tasks import Index
from dress.data.index import Format, detect_format, index_shard
from dress.data.index_file import INDEX, build_index, save_index, shard_row
from dress.data.opening import drop_old_index, known_checksums, shard_files

SHOWN = 5
"""Problems that are printed; the index holds all of them."""


def run(settings: Index, console: Console) -> None:
    """Index every shard below a folder.

    Raises:
        FileNotFoundError: no shard there.
        ValueError: no sample in any of them, or a shard is no regular file.
    """
    folder = Path(settings.path)
    files = shard_files(folder)
    form: Format
    if settings.format == "auto":
        form = next((kind for name in files if (kind := detect_format(folder / name, settings.ignore))), "captions")
    else:
        form = settings.format
    sums = known_checksums(folder)
    rows: list[pa.RecordBatch] = []
    for name, stat in track(files.items(), "index", console=console, transient=True):
        contents = index_shard(folder / name, form, settings.ignore, images=True)
        expected = sums.get(name, contents["sha256"])
        if contents["sha256"] != expected:
            contents["problems"].append(("", f"expected sha256 {expected[:12]} as noted beside it, got another"))
            contents["samples"] = []
        rows.append(shard_row({"name": name, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, **contents}))
    index = build_index(rows, form, settings.ignore)
    samples = int(index.starts[-1])
    problems = [(shard.name, *problem) for shard in index.shards for problem in shard.problems]
    if not samples:
        raise ValueError(f"{folder}: format={form}: expected samples, got none: {problems[:1]}")
    save_index(folder / INDEX, index)
    drop_old_index(folder)
    table = Table(title=str(folder))
    table.add_column("")
    table.add_column("number", justify="right")
    for name, number in (("shards", len(files)), (f"samples ({form})", samples), ("problems", len(problems))):
        table.add_row(name, f"{number:,}")
    for reason, number in Counter(reason for *_, reason in problems).most_common():
        table.add_row(f"  {reason[:80]}", f"{number:,}")
    console.print(table)
    for name, member, reason in problems[:SHOWN]:
        console.print(f"{name}: {member}: {reason}", highlight=False)
    if problems:
        console.print("Training stops at these; data.on_damage=skip passes over them and counts them.")
    console.print(f"index: {folder / INDEX}", highlight=False)
