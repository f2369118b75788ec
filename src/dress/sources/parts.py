"""An import in parts: each reads, checks and keeps its share of rows and their images; the merge does the rest.

What rows of several parts decide together (which of them make one record, which say the same, keys, what is held out,
and which record stands in which shard) is decided in the merge, which does all that as one process does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from dress.base.files import checksum
from dress.base.parts import (
    PART,
    PART_WAIT,
    Part,
    PartNumber,
    check_files,
    difference,
    finish_part,
    finished_part,
    required_facts,
)
from dress.base.processes import cores
from dress.base.run_folder import lock, unlock
from dress.config.tasks import Import
from dress.sources.destination import ImportResult
from dress.sources.importing import (
    BATCH_GROUPS,
    BATCH_ROWS,
    VERSION,
    Opened,
    Progress,
    Work,
    batches,
    open_input,
    write_import,
)
from dress.sources.part_rows import PartReader, PartRows
from dress.sources.pool import Pool
from dress.sources.protocol import Source, SourceError
from dress.sources.row_files import rows_of
from dress.sources.rows import Blocks

IMPORT, ROWS = "import", "rows.sqlite"
_OWN = {"task", "out", "part", "overwrite", "preview", "workers"}
"""Settings that parts may have different ones of, or that the merge has of its own."""


class PartResult(NamedTuple):
    """What a part did; `unchanged` when it was done already."""

    folder: Path
    rows: int
    rejected: int
    images: int
    unchanged: bool = False


def import_part(source: Source, settings: Import, progress: Progress) -> PartResult:
    """Make one part of an import in a folder below `settings.out`; goes on where it was stopped.

    Raises:
        SourceError: the input cannot be read, or changed meanwhile.
        ConfigError: the part is there, of other input or settings.
    """
    assert settings.part is not None
    part, opened = PartNumber.parse(settings.part), open_input(source, settings)
    folder, identity = part.folder(Path(settings.out)), _identity(opened, settings)
    folder.mkdir(parents=True, exist_ok=True)
    lock(folder, PART_WAIT)
    try:
        done = None if settings.overwrite else finished_part(folder, identity)
        if done is not None:
            rows, rejected, images = (int(done.facts[name]) for name in ("rows", "rejected", "images"))
            return PartResult(folder, rows, rejected, images, True)
        if settings.overwrite:
            for file in (folder / PART, *folder.glob(f"{ROWS}*")):
                file.unlink(missing_ok=True)
        state = PartRows(folder / ROWS, hashlib.sha256(json.dumps(identity).encode()).hexdigest())
        with Pool(opened.job(settings, state.path), cores() if settings.workers is None else settings.workers) as pool:
            _read(opened, part, state, pool, progress)
            _look(state, pool, progress)
        counts = state.counts()
        if opened.stats() != identity["inputs"]:
            state.delete()
            raise SourceError(f"{opened.path}: changed while it was read; run the same command again")
        state.close()
        names = list(opened.files)
        sums = {names[place]: checksum(opened.files[names[place]]) for place in part.span(len(names))}
        finish_part(folder, IMPORT, identity, {**counts, "sums": sums, "files": {ROWS: checksum(folder / ROWS)}})
        return PartResult(folder, counts["rows"], counts["rejected"], counts["images"])
    finally:
        unlock(folder)


def merge_parts(parts: Sequence[Part], source: Source, settings: Import, progress: Progress) -> ImportResult:
    """Write what one process would have written of the input of these parts.

    Args:
        parts: all of them.
        source: reads the format.
        settings: of the parts (`settings_of`), with an `out` of its own.
        progress: shows how far it is.

    Raises:
        SourceError: the input or a part changed since, or see `run_import`.
    """
    opened = open_input(source, settings)
    now = {"task": IMPORT, **json.loads(json.dumps(_identity(opened, settings)))}
    if unlike := difference(parts[0].identity, now):
        raise SourceError(
            f"{opened.path}: changed since the parts were made: {unlike}. Delete them and make them again"
        )
    required_facts(parts, "sums")
    for part in parts:
        check_files(part)
    files = tuple(part.folder / ROWS for part in parts)
    sums: dict[str, str] = {}
    for part in parts:
        sums |= part.facts["sums"]
    reader = PartReader(files)
    try:
        return write_import(
            opened, settings, {name: sums[name] for name in opened.files},
            lambda work: _enter(work, reader), progress, files,
        )  # fmt: skip
    finally:
        reader.close()


def settings_of(part: Part, out: str, workers: int | None) -> dict[str, Any]:
    """The settings of the whole import that a part is of."""
    settings = {name: value for name, value in part.identity.items() if name in Import.model_fields}
    return {**settings, "task": IMPORT, "out": out, "workers": workers}


def _identity(opened: Opened, settings: Import) -> dict[str, Any]:
    """All that a part and the merge depend on, but images, which both look at."""
    return {
        "version": [VERSION, opened.source.version], "inputs": opened.stats(), "columns read": opened.source.settings,
        **settings.model_dump(mode="json", exclude_unset=True, exclude=_OWN),
    }  # fmt: skip


def _read(opened: Opened, part: PartNumber, state: PartRows, pool: Pool, progress: Progress) -> None:
    """The rows of the part, and what each says."""
    progress.start("read rows", 0)
    for number, row_file in enumerate(opened.row_files):
        last = state.last_row(number)
        if last is None:
            continue
        rows = rows_of(row_file, Blocks(part, number % part.of))(last)
        calls = batches(number, map(state.add_images, map(opened.source.prepared, rows)))
        for (_, batch), results in pool.map("rows", calls):
            state.add(number, batch, results)
            progress.advance(len(batch))
        state.add(number, [], [], done=True)
    progress.end()


def _look(state: PartRows, pool: Pool, progress: Progress) -> None:
    """What the images are that the rows name; several parts may look at one."""
    progress.start("check images", state.counts()["unseen"])
    for (names,), facts in pool.map("look", ((names,) for names in state.unseen(BATCH_GROUPS))):
        state.seen(names, facts)
        progress.advance(len(names))
    progress.end()


def _enter(work: Work, reader: PartReader) -> None:
    """The rows of all parts, in the order of the input."""
    state = work.state
    state.add_image_names(reader.image_names())
    work.progress.start("rows of parts (files)", len(work.pool.job.inputs))
    for number in range(len(work.pool.job.inputs)):
        last = state.last_row(number)
        if last is None:
            continue
        rows = reader.rows(number, last)
        while some := list(islice(rows, BATCH_ROWS)):
            state.add(number, [row for row, _ in some], [result for _, result in some])
        state.add(number, [], [], done=True)
        work.progress.advance(1)
    state.prune()
    work.progress.end()
