"""The import: rows are read, merged by image, checked and written, a step at a time that a kill cannot undo.

It is a pure function of its input: the same files give the same bytes, for any number of workers, killed and
started again or not. It is written aside and renamed, so that `out` is the old import or the new one, never
half of one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from dress.base.files import read_json, write_json
from dress.config.tasks import Import
from dress.data.index_file import INDEX, write_index
from dress.sources.pool import Pool, cores
from dress.sources.ranges import MAX_ROW_BYTES, Range, layout, ranges
from dress.sources.rows import SPLITS, Source, SourceError, Table
from dress.sources.spool import Spool
from dress.sources.values import is_reject, parse
from dress.sources.work import NOTED, Input, Job, Worker, size_of

IMPORT_FILE = "import.json"
REJECTS_FILE = "rejects.jsonl"
IMAGES_FILE = "images.tsv"
SPOOL, LOCK = "progress.sqlite", "lock"
VERSION = 3
"""Raised when the same parts would give other files."""

BATCH_ROWS, BATCH_BYTES, BATCH_GROUPS = 500, 1 << 20, 50
HELD_OUT_SHARE = 7
"""At most one image in so many is held out for `eval`."""


class Progress(Protocol):
    """Told how far an import is, a step at a time."""

    def start(self, step: str, total: int) -> None: ...

    def advance(self, number: int) -> None: ...

    def end(self) -> None: ...


@dataclass(frozen=True)
class Imported:
    """What an import did; `unchanged` when `out` held it already."""

    out: Path
    read: int
    used: int  # rows; several may make one record
    written: dict[str, int]  # records per split
    rejected: dict[str, int]  # rows per reason
    noted: dict[str, int]  # what was used and is to be known: animations
    unchanged: bool = False
    kept: Path | None = None  # where a foreign folder that stood at `out` was moved


def run_import(source: Source, settings: Import, progress: Progress) -> Imported:
    """Write `out/<split>/shard-*.tar`, `import.json` and, if any, `rejects.jsonl`.

    Args:
        source: reads the format.
        settings: of the task; `path` is a file, a folder, or a reject file to import again.
        progress: shows how far it is.

    Raises:
        SourceError: the input cannot be read, no row can be used, or `out` holds something else.
        OSError: no space left; `out` is as it was, and the same command goes on where it stopped.
    """
    path, out = Path(settings.path), Path(settings.out)
    _check_places(path, out)
    origin, images = _origin(path)
    images = images if settings.images is None else Path(settings.images)
    if images is not None and not images.is_dir():
        raise SourceError(f"images={images}: expected a folder, found none")
    splits = _splits(source, settings)
    read_too = source.open(origin, images)
    roots = (images,) if images else tuple(source.image_roots(origin))
    tables = [Table(path)] if _is_reject_file(path) else source.tables(path)
    inputs = tuple(
        Input(table.file, _name(table.file, path), table.array, layout(table), wrapped=_is_reject_file(table.file))
        for table in tables
    )
    sums = {_name(file, path): _sha256(file) for file in dict.fromkeys([*(at.path for at in inputs), *read_too])}
    fingerprint = _fingerprint(source, settings, splits, sums)
    if not settings.overwrite:
        there = _there(out, fingerprint, roots)
        if there is not None:
            return there
    job = Job(source, inputs, roots, settings.allow_missing_images, settings.max_aspect)
    before = _stats(inputs)
    with _partial(out) as aside:
        spool = Spool(aside / SPOOL, fingerprint)
        if not spool.resumed:
            _clear(aside, but=(SPOOL, LOCK))
        with Pool(job, cores() if settings.workers is None else settings.workers) as pool:
            _read(spool, pool, inputs, progress)
            _check(spool, pool, progress)
            _refuse_if_none(spool, job, path)
            spool.hold_out(settings.held_out if "eval" in splits else 0, HELD_OUT_SHARE)
            _write(spool, pool, aside, splits, settings.per_shard, progress)
            _index(spool, pool, aside, splits)
        if _stats(inputs) != before:
            raise SourceError(f"{path}: changed while it was read; run the same command again")
        report = _report(spool, job, aside, splits)
        about = {"source": source.name, "version": source.version, "path": str(path), "origin": str(origin)}
        about |= {"images": None if images is None else str(images)}
        write_json(aside / IMPORT_FILE, {**about, "fingerprint": fingerprint, **report, "inputs": sums})
        spool.delete()
        kept = _replace(out, aside)
    counts = {name: report[name] for name in ("read", "used", "written", "rejected", "noted")}
    return Imported(out, **counts, kept=kept)


# --- the steps ---------------------------------------------------------------------------------


def _read(spool: Spool, pool: Pool, inputs: tuple[Input, ...], progress: Progress) -> None:
    progress.start("read rows (MB)", sum(at.path.stat().st_size for at in inputs) // 1_000_000)
    shown = 0
    for table, at in enumerate(inputs):
        if not spool.done(table):
            last = spool.after(table)
            for (_, rows), read in pool.map("rows", _batches(table, ranges(at.path, at.how, last))):
                spool.add(table, rows, read, last=False)
                end = (rows[-1].offset + rows[-1].size) // 1_000_000
                progress.advance(max(0, end - shown))
                shown = max(shown, end)
            spool.add(table, [], [], last=True)
        shown = 0
    spool.prune()
    progress.end()


def _batches(table: int, rows: Iterator[Range]) -> Iterator[tuple[int, list[Range]]]:
    batch: list[Range] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += row.size
        if len(batch) == BATCH_ROWS or size > BATCH_BYTES:
            yield table, batch
            batch, size = [], 0
    if batch:
        yield table, batch


def _check(spool: Spool, pool: Pool, progress: Progress) -> None:
    progress.start("check images", spool.number("new"))
    calls = ((groups,) for groups in spool.new_groups(BATCH_GROUPS))
    for (groups,), (results, words) in pool.map("check", calls):
        spool.checked(groups, results, words)
        progress.advance(len(groups))
    progress.end()


def _write(spool: Spool, pool: Pool, aside: Path, splits: tuple[str, ...], per_shard: int, progress: Progress) -> None:
    counts = spool.counts()
    for split in splits:
        done = spool.shards(split)
        progress.start(f"write {split}", spool.planned(split))
        progress.advance(sum(records for _, records in done.values()))
        calls = (
            (split, number, groups, counts, aside)
            for number, groups in enumerate(spool.plan(split, per_shard))
            if number not in done or not (aside / split / f"shard-{number:06d}.tar").is_file()
        )
        for (_, number, groups, *_), (sha256, records) in pool.map("shard", calls):
            spool.shard_done(split, number, sha256, records)
            progress.advance(len(groups))
        progress.end()


def _index(spool: Spool, pool: Pool, aside: Path, splits: tuple[str, ...]) -> None:
    """Each split gets its `index.json`: nobody has to take the shards for what they are when they are first read.

    Raises:
        OSError: a shard is not the one that was written; the same command writes it again.
    """
    for split in splits:
        shards = spool.shards(split)
        calls = ((aside / split, f"shard-{number:06d}.tar") for number in sorted(shards))
        entries = [entry for _, entry in pool.map("index", calls)]
        for entry, (_, (sha256, _)) in zip(entries, sorted(shards.items()), strict=True):
            if entry["sha256"] != sha256 or entry["problems"]:
                (aside / split / entry["name"]).unlink()
                raise OSError(
                    f"{aside / split / entry['name']}: damaged since it was written {entry['problems'][:1]}; "
                    f"run the same command again"
                )
        if entries:
            write_index(aside / split / INDEX, entries, "records", ())


def _report(spool: Spool, job: Job, aside: Path, splits: tuple[str, ...]) -> dict[str, Any]:
    """What `import.json` says; writes the reject file on the way."""
    reasons = spool.reasons()
    files = {
        f"{split}/shard-{number:06d}.tar": sha256
        for split in splits
        for number, (sha256, _) in sorted(spool.shards(split).items())
    }
    if reasons:
        _write_rejects(spool, job, aside / REJECTS_FILE)
        files[REJECTS_FILE] = _sha256(aside / REJECTS_FILE)
    with (aside / IMAGES_FILE).open("w", encoding="utf-8") as file:
        file.writelines(f"{size}\t{name}\n" for name, size in spool.images())
    files[IMAGES_FILE] = _sha256(aside / IMAGES_FILE)
    read = spool.read()
    return {
        "read": read,
        "used": read - sum(reasons.values()),
        "written": {split: sum(records for _, records in spool.shards(split).values()) for split in splits},
        "rejected": reasons,
        "noted": {word.removeprefix(NOTED): n for word, n in spool.counts().items() if word.startswith(NOTED)},
        "files": files,
    }


def _write_rejects(spool: Spool, job: Job, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file, Worker(job) as worker:
        for row, fault, why in spool.rejects():
            file.write(json.dumps(worker.reject(row, fault, why), ensure_ascii=False) + "\n")


def _refuse_if_none(spool: Spool, job: Job, path: Path) -> None:
    if not spool.number("good"):
        first = next(spool.rejects(), None)
        told = ""
        if first is not None:
            row, _, why = first
            told = f" ({spool.reasons()}; first: {job.inputs[row.table].name}:{row.number}: {why.detail})"
        raise SourceError(f"{path}: expected rows, got none that can be used{told}")


# --- settings and inputs -----------------------------------------------------------------------


def _check_places(path: Path, out: Path) -> None:
    if not path.exists():
        raise SourceError(f"path={path}: expected a folder or a file, found none")
    if path.resolve().is_relative_to(out.resolve()):
        raise SourceError(f"out={out} holds the input {path}; expected another folder")
    if out.resolve().is_relative_to(path.resolve()):
        raise SourceError(f"out={out} lies in the input {path}; expected another folder")


def _splits(source: Source, settings: Import) -> tuple[str, ...]:
    can = [split for split in SPLITS if split in source.splits]
    asked = settings.splits if settings.splits is not None else source.usual or can
    wrong = [split for split in asked if split not in can]
    if wrong:
        raise SourceError(f"splits={wrong[0]}: source={source.name} writes {', '.join(can)}")
    return tuple(split for split in can if split in asked)


def _origin(path: Path) -> tuple[Path, Path | None]:
    """What was read at first, and its images' folder: of a reject file, what its import was given, if it is there."""
    if not _is_reject_file(path):
        return path, None
    try:
        known = read_json(path.with_name(IMPORT_FILE))
        origin, images = Path(known["origin"]), known["images"] and Path(known["images"])
    except (OSError, ValueError, KeyError, TypeError):
        return path, None
    return (origin if origin.exists() else path), (images if images and images.is_dir() else None)


def _is_reject_file(path: Path) -> bool:
    if not path.is_file() or path.suffix != ".jsonl":
        return False
    with path.open("rb") as file:
        first = file.readline(2 * MAX_ROW_BYTES)
    try:
        return is_reject(parse(first.decode("utf-8-sig")))
    except ValueError:
        return False


def _fingerprint(source: Source, settings: Import, splits: tuple[str, ...], sums: dict[str, str]) -> str:
    """Of all that the result depends on but images, whose names and sizes are in `images.tsv`."""
    known_by = [
        VERSION, source.name, source.version, sums, splits, settings.held_out, settings.per_shard,
        settings.allow_missing_images, settings.max_aspect,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(known_by).encode()).hexdigest()


def _stats(inputs: tuple[Input, ...]) -> list[tuple[int, int]]:
    return [(stat.st_size, stat.st_mtime_ns) for stat in (at.path.stat() for at in inputs)]


def _name(file: Path, path: Path) -> str:
    return file.relative_to(path).as_posix() if file.is_relative_to(path) and file != path else file.name


# --- what stands at out ------------------------------------------------------------------------


@contextmanager
def _partial(out: Path) -> Iterator[Path]:
    """The folder beside `out` where an import is made; it stays when the import is stopped.

    Raises:
        SourceError: another process is making this import.
    """
    aside = out.with_name(out.name + ".partial")
    aside.mkdir(parents=True, exist_ok=True)
    lock = FileLock(aside / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise SourceError(f"out={out}: another process is making this import ({aside})") from None
    try:
        yield aside
    except SourceError:
        shutil.rmtree(aside)
        raise
    finally:
        lock.release()


def _clear(aside: Path, but: tuple[str, ...]) -> None:
    for there in aside.iterdir():
        if there.is_dir():
            shutil.rmtree(there)
        elif not there.name.startswith(but):
            there.unlink()


def _there(out: Path, fingerprint: str, roots: tuple[Path, ...]) -> Imported | None:
    """The import that `out` holds already, None if it holds nothing.

    Raises:
        SourceError: it holds something else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    advice = "Give another out=, or overwrite=true to replace it"
    try:
        known = read_json(out / IMPORT_FILE)
        same, files = known["fingerprint"] == fingerprint, known["files"]
        damaged = next((name for name, sha in files.items() if _changed(out / name, sha)), None)
        counts = {name: known[name] for name in ("read", "used", "written", "rejected")}
        counts["noted"] = known.get("noted", {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise SourceError(f"out={out}: expected nothing or an import, got other content. {advice}") from None
    if not same:
        raise SourceError(f"out={out} holds an import of other input or settings. {advice}")
    other = _other_image(out / IMAGES_FILE, roots)
    if other is not None:
        raise SourceError(f"out={out} was made when the image {other}. {advice}")
    if damaged is not None:
        raise SourceError(f"{out / damaged}: changed since it was imported. {advice}")
    return Imported(out, **counts, unchanged=True)


def _replace(out: Path, aside: Path) -> Path | None:
    """Put `aside` at `out`; an old import is deleted, anything else moved beside: returns where."""
    (aside / LOCK).unlink(missing_ok=True)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        aside.replace(out)
        return None
    old = next(p for n in range(10_000) if not (p := out.with_name(f"{out.name}.old-{n}")).exists())
    out.replace(old)
    aside.replace(out)
    if (old / IMPORT_FILE).is_file():
        shutil.rmtree(old)
        return None
    return old


def _other_image(listed: Path, roots: tuple[Path, ...]) -> str | None:
    """The first image that is there now and was not then, or the other way round, or of another size."""
    if not listed.is_file():
        return None
    with listed.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            size, _, name = line.rstrip("\n").partition("\t")
            if size != "None" and int(size) != size_of(roots, name):
                return f"{name} was not there" if size == "-1" else f"{name} had {size} bytes"
    return None


def _changed(path: Path, sha256: str) -> bool:
    return not path.is_file() or _sha256(path) != sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
