"""`format=dataset`: a folder fit to publish: shards by split, a card, counts and checksums."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from dress.base.files import write_json, write_text
from dress.data.counts import Counts
from dress.data.index import Entry, Format, index_shard
from dress.data.index_file import INDEX, ShardError, read_index, write_index
from dress.data.licences import licences_of
from dress.exports.card import card
from dress.exports.features import features
from dress.exports.writing import Writing

ONE_SPLIT = "train"
COUNTS_FILE = "counts.json"


def write(to: Writing, source: Path, title: str, license: str) -> None:
    """Copy the shards, count what is in them, and write the card.

    Raises:
        ShardError: a shard changed while it was copied.
    """
    counts = {split or ONE_SPLIT: Counts() for split in to.splits}
    for split, _, record, _ in to.samples():
        counts[split or ONE_SPLIT].add(record)
    forms: set[Format] = set()
    extensions: set[str] = set()
    for split in to.splits:
        form, members = _copy(to, source / split, to.folder / (split or ONE_SPLIT))
        forms.add(form)
        extensions |= members
        to.rows[split or ONE_SPLIT] = counts[split or ONE_SPLIT].records
    write_json(to.folder / COUNTS_FILE, {split: counted.to_json() for split, counted in counts.items()})
    columns = features(extensions, records=forms == {"records"})
    write_text(to.folder / "README.md", card(title, license, counts, licences_of(source), columns))


def _copy(to: Writing, source: Path, folder: Path) -> tuple[Format, set[str]]:
    """The shards of a split with an index; times are fixed, so that equal shards give equal files.

    Returns:
        The shards' format, and the extensions of their members.
    """
    earlier = read_index(source / INDEX)
    form: Format = earlier.form if earlier else "records"
    ignore = earlier.ignore if earlier else ()
    sums = {shard.name: shard.sha256 for shard in earlier.shards} if earlier else {}
    entries: list[Entry] = []
    for path in to.track(sorted(source.glob("**/*.tar")), f"copy {folder.name}"):
        name = path.relative_to(source).as_posix()
        copy = folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        os.utime(copy, ns=(0, 0))
        contents = index_shard(copy, form, ignore)
        entries.append({"name": name, "size": copy.stat().st_size, "mtime_ns": 0, **contents})
        if entries[-1]["sha256"] != sums.get(name, entries[-1]["sha256"]):
            raise ShardError(f"{path}: changed since it was indexed; run the same command again")
    write_index(folder / INDEX, entries, form, ignore)
    return form, {extension for entry in entries for _, places in entry["samples"] for extension in places}
