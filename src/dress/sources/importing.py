"""The import: rows are read, merged by image, checked and written, a step at a time that a kill cannot undo.

It is a pure function of its input: the same files give the same bytes, for any number of workers, killed and
started again or not. It is written aside and renamed, so that `out` is the old import or the new one, never
half of one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dress.base.files import checksum, read_json, write_json
from dress.base.processes import cores
from dress.config.tasks import Import
from dress.data.index import Entry
from dress.data.index_file import INDEX, write_index
from dress.data.shards import Shards
from dress.record import known_answers
from dress.sources.destination import (
    COUNTS,
    IMAGES_FILE,
    IMPORT_FILE,
    STATE,
    ImportResult,
    aside_of,
    check_places,
    clear,
    earlier_import,
    replace,
)
from dress.sources.pool import Pool
from dress.sources.protocol import SPLITS, RowFile, Source, SourceError
from dress.sources.row_files import rows_of
from dress.sources.rows import MAX_ROW_BYTES, Row, Rows
from dress.sources.state import State
from dress.sources.strict_json import is_reject, parse_bytes
from dress.sources.worker import CRITIQUES, HELD, NOTED, RATINGS, REFERENCES, Input, Job

REJECTS_FILE, REJECT_IMAGES = "rejects.jsonl", "reject_images"
VERSION = 3
"""Raised when the same parts would give other files."""

BATCH_ROWS, BATCH_BYTES, BATCH_GROUPS = 500, 1 << 20, 50
HELD_OUT_SHARE = 7
"""At most one image in so many is held out for `eval`."""


class Progress(Protocol):
    """Hears how far an import is, a step at a time."""

    def start(self, step: str, total: int) -> None:
        """A step of so many units begins."""

    def advance(self, number: int) -> None:
        """So many units more are done."""

    def end(self) -> None:
        """The step is over."""


@dataclass(frozen=True)
class Work:
    """What the steps of one import share."""

    state: State
    pool: Pool
    aside: Path
    splits: tuple[str, ...]
    progress: Progress


@dataclass(frozen=True)
class Opened:
    """An import's source and input, open: `files` are all that the result depends on but images, by name."""

    source: Source
    path: Path
    origin: Path
    images: Path | None
    roots: tuple[Path, ...]
    splits: tuple[str, ...]
    row_files: tuple[RowFile, ...]
    inputs: tuple[Input, ...]
    files: dict[str, Path]

    def job(self, settings: Import, state: Path, parts: tuple[Path, ...] = ()) -> Job:
        """What workers need to know."""
        allow, aspect = settings.allow_missing_images, settings.max_aspect
        return Job(self.source, self.inputs, self.roots, state, allow, aspect, parts)

    def stats(self) -> dict[str, list[int]]:
        """Size and time of change of each file."""
        stats = {name: file.stat() for name, file in self.files.items()}
        return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def open_input(source: Source, settings: Import) -> Opened:
    """Find all that an import reads.

    Raises:
        SourceError: the input cannot be read, or the source cannot write these splits.
    """
    path = Path(settings.path)
    check_places(path, Path(settings.out))
    origin, images = origin_of(settings)
    rejects = _is_reject_file(path)
    splits = _splits(source, settings)
    read_too = source.open(origin, images)
    roots = (images,) if images else tuple(source.image_roots(origin))
    roots += (path.with_name(REJECT_IMAGES),) if rejects else ()
    row_files = (RowFile(path),) if rejects else tuple(source.row_files(path))
    inputs = tuple(
        Input(at.file, _name(at.file, path), at.array, at.test, _is_reject_file(at.file)) for at in row_files
    )
    files = {_name(file, path): file for file in dict.fromkeys([*(at.path for at in inputs), *read_too])}
    return Opened(source, path, origin, images, roots, splits, row_files, inputs, files)


def run_import(source: Source, settings: Import, progress: Progress) -> ImportResult:
    """Write `out/<split>/shard-*.tar`, `import.json` and, if any, `rejects.jsonl`.

    Args:
        source: reads the format.
        settings: of the task; `path` is a file, a folder, or a reject file to import again.
        progress: shows how far it is.

    Raises:
        SourceError: the input cannot be read, no row can be used, or `out` holds something else.
        OSError: no space left; `out` is as it was, and the same command goes on where it stopped.
    """
    opened = open_input(source, settings)
    readers = [rows_of(row_file) for row_file in opened.row_files]
    sums = {name: checksum(file) for name, file in opened.files.items()}
    return write_import(opened, settings, sums, lambda work: _read(work, readers), progress)


def write_import(
    opened: Opened, settings: Import, sums: dict[str, str], read: Callable[[Work], None], progress: Progress,
    parts: tuple[Path, ...] = (),
) -> ImportResult:  # fmt: skip
    """All of an import behind what finds its input.

    Args:
        opened: the input.
        settings: of the task.
        sums: checksums of the input's files.
        read: enters all rows, in order.
        progress: shows how far it is.
        parts: files of parts that have looked at rows and images.

    Raises:
        SourceError, OSError: see `run_import`.
    """
    source, path, splits, out = opened.source, opened.path, opened.splits, Path(settings.out)
    fingerprint = _fingerprint(source, settings, splits, sums)
    earlier = None if settings.overwrite else earlier_import(out, fingerprint, opened.roots)
    if earlier is not None:
        return earlier
    before = opened.stats()
    with aside_of(out) as aside:
        state = State(aside / STATE, fingerprint)
        if not state.resumed:
            clear(aside)
        job = opened.job(settings, state.path, parts)
        with Pool(job, cores() if settings.workers is None else settings.workers) as pool:
            work = Work(state, pool, aside, splits, progress)
            read(work)
            _check(work)
            _refuse_if_none(work, path)
            state.hold_out(settings.held_out if "eval" in splits else 0, HELD_OUT_SHARE)
            files = _write(work, settings.per_shard)
            if opened.stats() != before:
                raise SourceError(f"{path}: changed while it was read; run the same command again")
            report = _report(work, files)
        about = {"source": source.name, "version": source.version, "path": str(path), "origin": str(opened.origin)}
        about |= {"images": None if opened.images is None else str(opened.images)}
        about |= {"licence": source.licence, **source.settings}
        write_json(aside / IMPORT_FILE, {**about, "fingerprint": fingerprint, **report, "inputs": sums})
        state.delete()
        moved_to = replace(out, aside)
    return ImportResult(out, **{name: report[name] for name in COUNTS}, moved_to=moved_to)


# --- the steps ---------------------------------------------------------------------------------


def _read(work: Work, readers: list[Rows]) -> None:
    state = work.state
    work.progress.start("read rows (MB)", sum(at.path.stat().st_size for at in work.pool.job.inputs) // 1_000_000)
    size = 0
    for file_number, rows in enumerate(readers):
        last = state.last_row(file_number)
        if last is None:
            continue
        for (_, batch), results in work.pool.map(
            "rows", batches(file_number, map(state.add_images, map(work.pool.job.source.prepared, rows(last))))
        ):
            state.add(file_number, batch, results)
            size += sum(len(row.data) for row in batch)
            work.progress.advance(size // 1_000_000)
            size %= 1_000_000
        state.add(file_number, [], [], done=True)
    state.prune()
    work.progress.end()


def batches(file_number: int, rows: Iterator[Row]) -> Iterator[tuple[int, list[Row]]]:
    batch: list[Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += len(row.data)
        if len(batch) == BATCH_ROWS or size > BATCH_BYTES:
            yield file_number, batch
            batch, size = [], 0
    if batch:
        yield file_number, batch


def _check(work: Work) -> None:
    work.progress.start("check images", work.state.number("new"))
    calls = ((groups,) for groups in work.state.new_groups(BATCH_GROUPS))
    for (groups,), (results, words) in work.pool.map("check", calls):
        work.state.checked(groups, results, words)
        work.progress.advance(len(groups))
    work.progress.end()


def _write(work: Work, per_shard: int) -> dict[str, str]:
    """The shards and the index of each split, so that nobody has to take the shards for what they are when they are
    first read; returns their checksums by name."""
    checksums: dict[str, str] = {}
    for split in work.splits:
        number = work.state.planned(split)
        work.progress.start(f"write {split}", number)
        if number:
            (work.aside / split).mkdir(exist_ok=True)
            write_index(work.aside / split / INDEX, _entries(work, split, per_shard, checksums), "records", ())
        work.progress.end()
    return checksums


def _entries(work: Work, split: str, per_shard: int, checksums: dict[str, str]) -> Iterator[Entry]:
    """What the index says of each shard as it is written.

    Raises:
        OSError: one that a killed run left is damaged; the same command writes it again.
    """
    counts = work.state.counts()
    calls = ((work.aside / split / f"shard-{n:06d}.tar", split, groups, counts)
             for n, groups in enumerate(work.state.plan(split, per_shard)))  # fmt: skip
    for (path, _, groups, _), entry in work.pool.map("shard", calls):
        if entry["problems"]:
            path.unlink()
            raise OSError(f"{path}: damaged since it was written {entry['problems'][:1]}; run the same command again")
        checksums[f"{split}/{path.name}"] = entry["sha256"]
        work.progress.advance(len(groups))
        yield entry


def _report(work: Work, files: dict[str, str]) -> dict[str, Any]:
    """What `import.json` says, with the checksums of all files; writes the reject file on the way."""
    state, aside, reasons = work.state, work.aside, work.state.reasons()
    if reasons:
        _write_rejects(work)
        files[REJECTS_FILE] = checksum(aside / REJECTS_FILE)
    with (aside / IMAGES_FILE).open("w", encoding="utf-8") as file:
        file.writelines(f"{size}\t{name}\n" for name, size in state.images())
    files[IMAGES_FILE] = checksum(aside / IMAGES_FILE)
    counts = state.counts()
    return {
        "read": state.rows(),
        "used": state.rows() - sum(reasons.values()),
        "written": {split: state.planned(split) for split in work.splits},
        "rejected": reasons,
        "noted": {word.removeprefix(NOTED): n for word, n in counts.items() if word.startswith(NOTED)},
        "held": {RATINGS: 0, CRITIQUES: 0, REFERENCES: _with_reference(work)}
        | {word.removeprefix(HELD): n for word, n in counts.items() if word.startswith(HELD)},
        "files": files,
    }


def _with_reference(work: Work) -> int:
    """How many records of `eval` have an answer that others can be measured against."""
    if not work.state.planned("eval"):
        return 0
    shards = Shards(work.aside / "eval")
    records = (shards.record(index) for index in range(len(shards)))
    return sum(any(map(known_answers, record.dialogues)) for record in records)


def _write_rejects(work: Work) -> None:
    """The reject file, and beside it the images that the rejected rows' own files hold."""
    with (work.aside / REJECTS_FILE).open("w", encoding="utf-8") as file:
        for file_number, row in work.state.rejects():
            file.write(json.dumps(work.pool.here.reject(file_number, row), ensure_ascii=False) + "\n")
            for name in re.findall(rb'"([0-9a-f]{32}[/.][^"\\]+)"', row.data):
                image = work.pool.here.reader.image(name.decode(errors="replace"))
                if image is not None:
                    path = work.aside / REJECT_IMAGES / name.decode()
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(image)


def _refuse_if_none(work: Work, path: Path) -> None:
    if not work.state.number("good"):
        why = ""
        for file_number, row in work.state.rejects():
            place = f"{work.pool.job.inputs[file_number].name}:{row.number}"
            why = f" ({work.state.reasons()}; first: {place}: {row.fault and row.fault.detail})"
            break
        raise SourceError(f"{path}: expected rows, got none that can be used{why}")


# --- settings and inputs -----------------------------------------------------------------------


def _splits(source: Source, settings: Import) -> tuple[str, ...]:
    can = [split for split in SPLITS if split in source.splits]
    names = settings.splits if settings.splits is not None else source.usual or can
    wrong = [split for split in names if split not in can]
    if wrong:
        raise SourceError(f"splits={wrong[0]}: source={source.name} writes {', '.join(can)}")
    return tuple(split for split in can if split in names)


def origin_of(settings: Import) -> tuple[Path, Path | None]:
    """What an import reads, and the folder of its images where one is stated.

    Of a reject file these are what the import that wrote it read, as far as they are there.

    Raises:
        SourceError: no such folder of images.
    """
    path = Path(settings.path)
    origin, images = _origin(path) if _is_reject_file(path) else (path, None)
    images = images if settings.images is None else Path(settings.images)
    if images is not None and not images.is_dir():
        raise SourceError(f"images={images}: expected a folder, found none")
    return origin, images


def _origin(path: Path) -> tuple[Path, Path | None]:
    try:
        about = read_json(path.with_name(IMPORT_FILE))
        origin, images = Path(about["origin"]), about["images"] and Path(about["images"])
    except (OSError, ValueError, KeyError, TypeError):
        return path, None
    return (origin if origin.exists() else path), (images if images and images.is_dir() else None)


def _is_reject_file(path: Path) -> bool:
    if path.suffix != ".jsonl" or not path.is_file():
        return False
    with path.open("rb") as file:
        first = file.readline(2 * MAX_ROW_BYTES).removeprefix(b"\xef\xbb\xbf")
    try:
        return is_reject(parse_bytes(first))
    except ValueError:
        return False


def _fingerprint(source: Source, settings: Import, splits: tuple[str, ...], sums: dict[str, str]) -> str:
    """Of all that the result depends on but images, whose names and sizes are in `images.tsv`."""
    all_of_it = [
        VERSION, source.name, source.version, sums, splits, settings.held_out, settings.per_shard,
        settings.allow_missing_images, settings.max_aspect, *([source.settings] if source.settings else []),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(all_of_it).encode()).hexdigest()


def _name(file: Path, path: Path) -> str:
    return file.relative_to(path).as_posix() if file.is_relative_to(path) and file != path else file.name
