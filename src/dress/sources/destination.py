"""What stands at `out`: the import that it holds already, the folder where a new one is made, and the exchange."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from dress.base.files import checksum, read_json
from dress.sources.protocol import SourceError
from dress.sources.worker import size_of

IMPORT_FILE, IMAGES_FILE = "import.json", "images.tsv"
STATE, LOCK = "progress.sqlite", "lock"
COUNTS = ("read", "used", "written", "rejected", "noted", "held")
LATER = ("noted", "held")
"""Counts that imports of earlier versions did not write down."""


@dataclass(frozen=True)
class ImportResult:
    """What an import did; `unchanged` when `out` held it already."""

    out: Path
    read: int
    used: int  # rows; several may make one record
    written: dict[str, int]  # records per split
    rejected: dict[str, int]  # rows per reason
    noted: dict[str, int]  # what was used and is to be known: animations
    held: dict[str, int] = field(default_factory=dict)  # ratings and critiques of answers, references of eval
    unchanged: bool = False
    moved_to: Path | None = None  # where a foreign folder that stood at `out` is now


def check_places(path: Path, out: Path) -> None:
    """Raises SourceError: no input, or input and output lie in each other."""
    if not path.exists():
        raise SourceError(f"path={path}: expected a folder or a file, found none")
    if path.resolve().is_relative_to(out.resolve()):
        raise SourceError(f"out={out} holds the input {path}; expected another folder")
    if out.resolve().is_relative_to(path.resolve()):
        raise SourceError(f"out={out} lies in the input {path}; expected another folder")


@contextmanager
def aside_of(out: Path) -> Iterator[Path]:
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


def clear(aside: Path) -> None:
    """Remove what an import of other input or settings left."""
    for item in aside.iterdir():
        if item.is_dir():
            shutil.rmtree(item)
        elif not item.name.startswith((STATE, LOCK)):
            item.unlink()


def earlier_import(out: Path, fingerprint: str, roots: tuple[Path, ...]) -> ImportResult | None:
    """The import that `out` holds already, None if it holds nothing.

    Raises:
        SourceError: it holds something else.
    """
    if _is_empty(out):
        return None
    advice = "Give another out=, or overwrite=true to replace it"
    try:
        about = read_json(out / IMPORT_FILE)
        same, files = about["fingerprint"] == fingerprint, about["files"]
        damaged = next((name for name, sha in files.items() if not _holds(out / name, sha)), None)
        counts = {name: about.get(name, {}) if name in LATER else about[name] for name in COUNTS}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise SourceError(f"out={out}: expected nothing or an import, got other content. {advice}") from None
    if not same:
        raise SourceError(f"out={out} holds an import of other input or settings. {advice}")
    other = _other_image(out / IMAGES_FILE, roots)
    if other is not None:
        raise SourceError(f"out={out} was made when the image {other}. {advice}")
    if damaged is not None:
        raise SourceError(f"{out / damaged}: changed since it was imported. {advice}")
    return ImportResult(out, **counts, unchanged=True)


def replace(out: Path, aside: Path) -> Path | None:
    """Put `aside` at `out`; an old import is deleted, anything else moved beside: returns where."""
    (aside / LOCK).unlink(missing_ok=True)
    if _is_empty(out):
        aside.replace(out)
        return None
    old = next(p for n in range(10_000) if not (p := out.with_name(f"{out.name}.old-{n}")).exists())
    out.replace(old)
    aside.replace(out)
    if (old / IMPORT_FILE).is_file():
        shutil.rmtree(old)
        return None
    return old


def _is_empty(out: Path) -> bool:
    return not out.exists() or (out.is_dir() and not any(out.iterdir()))


def _holds(path: Path, sha256: str) -> bool:
    return path.is_file() and checksum(path) == sha256


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
