"""What importers share: reading rows with their place, rejects, writing a folder of splits.

An import is a pure function of its input files: the same files give the same bytes. It is written
aside and renamed, so that `out` is the old import or the new one, never half of one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from dress.data.shards import Sample, write_shards
from dress.files import read_json, write_json, write_lines

SPLITS = ("align", "sft", "prompts", "eval")
PER_SHARD = 200
IMPORT_FILE = "import.json"
REJECTS_FILE = "rejects.jsonl"

T = TypeVar("T")
Splits = dict[str, list[Callable[[], Sample]]]
Track = Callable[[Sequence[T], str], Iterable[T]]
"""Goes through a sequence and shows how far it is: (items, what is done with them)."""


class SourceError(ValueError):
    """An import that cannot be made; the message names the file or setting, expected and got."""


@dataclass(frozen=True)
class Line:
    """A line of a file, as it was."""

    file: str
    number: int
    text: str


@dataclass
class Rows:
    """Lines read so far and those that cannot be used.

    `rejects` holds file, line, reason (a few words, the same for the same fault), detail, and the
    row as it was.
    """

    read: int = 0
    rejects: list[dict[str, Any]] = field(default_factory=list)

    def reject(self, line: Line, reason: str, detail: str) -> None:
        place = {"file": line.file, "line": line.number}
        self.rejects.append({**place, "reason": reason, "detail": detail, "row": line.text})

    @property
    def reasons(self) -> dict[str, int]:
        """How many rows were rejected, by reason, the most frequent first."""
        return dict(Counter(reject["reason"] for reject in self.rejects).most_common())


class Source(Protocol):
    """One public format."""

    name: str
    version: int
    """Raised when the same files would give other records."""

    def inputs(self, path: Path) -> list[Path]:
        """Every file that the import depends on.

        Raises:
            SourceError: `path` does not hold what the format asks for.
        """
        ...

    def samples(self, path: Path, rows: Rows, track: Track[Any]) -> Splits:
        """The samples of each split, made when called, so that images need not all be in memory.

        Args:
            path: the publisher's files.
            rows: counts what is read and takes the rejects.
            track: shows progress.
        """
        ...


@dataclass(frozen=True)
class Imported:
    """What an import did; `unchanged` when `out` held it already."""

    out: Path
    read: int
    used: int  # rows; several may make one record
    written: dict[str, int]  # records per split
    rejected: dict[str, int]  # rows per reason
    unchanged: bool = False
    kept: Path | None = None  # where a foreign folder that stood at `out` was moved


def read_lines(path: Path, rows: Rows) -> Iterator[tuple[Line, Any]]:
    """The JSON values of a JSON-lines file with their lines; CRLF, a BOM and blank lines are fine.

    Lines end at `\\n` only: U+2028 and its like are part of a text. What is no JSON goes to `rows`.

    Raises:
        SourceError: the file is UTF-16 or UTF-32.
    """
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if number == 1:
                raw = _without_bom(raw, path)
            raw = raw.strip()
            if not raw:
                continue
            rows.read += 1
            line = Line(path.name, number, raw.decode("utf-8", errors="backslashreplace"))
            try:
                value = json.loads(raw.decode("utf-8"))
            except UnicodeDecodeError as error:
                rows.reject(line, "not UTF-8", str(error))
            except (ValueError, RecursionError) as error:
                rows.reject(line, "not JSON", str(error))
            else:
                yield line, value


def read_whole(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        SourceError: no such file, UTF-16, or not JSON.
    """
    try:
        return json.loads(_without_bom(path.read_bytes(), path).decode("utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise SourceError(f"{path}: expected a JSON file, found none") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"{path}: expected JSON in UTF-8, got something else ({error})") from None


def _without_bom(raw: bytes, path: Path) -> bytes:
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in raw[:4]:
        raise SourceError(
            f"{path}: expected UTF-8, got UTF-16 or UTF-32. Convert it first: "
            f"iconv -f UTF-16 -t UTF-8 {path.name} > converted.jsonl"
        )
    return raw.removeprefix(b"\xef\xbb\xbf")


def run_import(source: Source, path: Path, out: Path, *, overwrite: bool, track: Track[Any]) -> Imported:
    """Write `out/{align,sft,prompts,eval}/shard-*.tar`, `import.json` and, if any, `rejects.jsonl`.

    Args:
        source: reads the format.
        path: the publisher's files.
        out: the folder to make.
        overwrite: replace what `out` holds.
        track: shows progress.

    Raises:
        SourceError: the input cannot be read, no row can be used, or `out` holds something else.
        OSError: no space left; `out` is as it was.
    """
    if not path.is_dir():
        found = "a file" if path.exists() else "none"
        raise SourceError(f"path={path}: expected a folder, found {found}")
    if path.resolve().is_relative_to(out.resolve()):
        raise SourceError(f"out={out} holds the input {path}; expected another folder")
    if out.resolve().is_relative_to(path.resolve()):
        raise SourceError(f"out={out} lies in the input {path}; expected another folder")
    inputs = {file.relative_to(path).as_posix(): _sha256(file) for file in source.inputs(path)}
    known_by = json.dumps([source.name, source.version, inputs])
    fingerprint = hashlib.sha256(known_by.encode()).hexdigest()
    if not overwrite:
        there = _there(out, fingerprint)
        if there is not None:
            return there
    rows = Rows()
    splits = source.samples(path, rows, track)
    rows.rejects.sort(key=lambda reject: (reject["file"], reject["line"]))
    used = rows.read - len(rows.rejects)
    if not used:
        raise SourceError(f"{path}: expected rows, got none that can be used{_first_reject(rows)}")
    aside = out.with_name(out.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)  # of an import that was killed
    try:
        written = {}
        for split in SPLITS:
            samples = (make() for make in track(splits[split], f"write {split}"))
            written[split] = write_shards(aside / split, samples, PER_SHARD)
        if rows.rejects:
            write_lines(aside / REJECTS_FILE, rows.rejects)
        files = {file.relative_to(aside).as_posix(): _sha256(file) for file in _files(aside)}
        counts = {"read": rows.read, "used": used, "written": written, "rejected": rows.reasons}
        write_json(
            aside / IMPORT_FILE,
            {"source": source.name, "version": source.version, "fingerprint": fingerprint,
             **counts, "inputs": inputs, "files": files},
        )  # fmt: skip
        kept = _replace(out, aside)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return Imported(out, rows.read, used, written, rows.reasons, kept=kept)


def _there(out: Path, fingerprint: str) -> Imported | None:
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
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise SourceError(f"out={out}: expected nothing or an import, got other content. {advice}") from None
    if not same:
        raise SourceError(f"out={out} holds an import of other input. {advice}")
    if damaged is not None:
        raise SourceError(f"{out / damaged}: changed since it was imported. {advice}")
    return Imported(out, **counts, unchanged=True)


def _replace(out: Path, aside: Path) -> Path | None:
    """Put `aside` at `out`; an old import is deleted, anything else moved beside: returns where."""
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


def _first_reject(rows: Rows) -> str:
    if not rows.rejects:
        return ""
    first = rows.rejects[0]
    return f" ({rows.reasons}; first: {first['file']}:{first['line']}: {first['detail']})"


def _files(folder: Path) -> list[Path]:
    return sorted(Path(top) / name for top, _, names in os.walk(folder) for name in names)


def _changed(path: Path, sha256: str) -> bool:
    return not path.is_file() or _sha256(path) != sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
