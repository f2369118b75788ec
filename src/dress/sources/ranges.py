"""Where the rows of a file lie: byte ranges, found without holding or parsing a row.

So a file of any size takes one chunk of memory, a row of any size or depth costs nothing but itself, rows
are parsed in worker processes, reading goes on at any row, and a rejected row is kept byte for byte.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from dress.data.index import MAX_JSON_BYTES
from dress.sources.rows import SourceError, Table

CHUNK = 1 << 20
MAX_ROW_BYTES = MAX_JSON_BYTES
"""Largest row that is read: a record is no larger either."""

CUT, AFTER, NO_CSV = "cut short", "after the array", "not CSV"

Form = Literal["lines", "array", "values", "csv"]

_SPACE = re.compile(rb"[\s,:]*+")
_ANYTHING = re.compile(rb".*", re.DOTALL)
_SCALAR = re.compile(rb'[^\s,:\[\]{}"]*+')
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_PLAIN = rb'(?:[^"{}\[\]]++|' + _STRING + rb")*+"
_FLAT = rb'(?:[^"{}\[\]]++|' + _STRING + rb"|\{" + _PLAIN + rb"\})*+"
# What holds no bracket, whole strings and flat objects are passed over in C; then a bracket, or a quote whose
# string does not end in this chunk.
_RUN, _TOKEN = re.compile(_FLAT, re.DOTALL), re.compile(_FLAT + rb'["{}\[\]]', re.DOTALL)
_REST_OF_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_QUOTE, _OPEN = ord('"'), b"{["
_BOM = b"\xef\xbb\xbf"
_COMPRESSED = {b"\x1f\x8b": "gzip", b"PK": "zip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ": "xz", b"BZh": "bzip2"}


class Range(NamedTuple):
    """A row: its number (lines: of the line, else of the row, from 1) and its bytes; what is wrong, if anything."""

    number: int
    offset: int
    size: int
    fault: str = ""


@dataclass(frozen=True)
class Layout:
    """How rows stand in a file, and where the first begins."""

    form: Form
    start: int
    inside: bool = False  # an array that is a member of an object
    columns: tuple[str, ...] = ()
    delimiter: str = ","


def layout(table: Table) -> Layout:
    """How the rows of a table stand in its file.

    Raises:
        SourceError: no such file or array, compressed, UTF-16 or UTF-32, or Parquet.
    """
    path = table.file
    try:
        with path.open("rb") as file:
            head = file.read(1 << 16)
    except OSError as error:
        raise SourceError(f"{path}: expected a file, got none ({error.strerror})") from None
    _refuse(head, path)
    start = len(_BOM) if head.startswith(_BOM) else 0
    if table.array:
        arrays = _arrays(path, start)
        if table.array not in arrays:
            known = ", ".join(arrays) or "none"
            raise SourceError(f"{path}: expected an array {table.array!r}, got these arrays: {known}")
        return Layout("array", arrays[table.array], inside=True)
    if path.suffix.lower() in (".csv", ".tsv"):
        return _csv_layout(path, Layout("csv", start, delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return Layout("lines", start)
    text = head[start:].lstrip()
    if text.startswith(b"["):
        return Layout("array", head.index(b"[", start) + 1)
    return Layout(_lines_or_values(text), start)


def members(path: Path) -> list[str]:
    """Names of the arrays in a file's first value, if that is a JSON object.

    Raises:
        SourceError: compressed, UTF-16 or UTF-32, or Parquet.
    """
    with path.open("rb") as file:
        head = file.read(1 << 16)
    _refuse(head, path)
    start = len(_BOM) if head.startswith(_BOM) else 0
    return list(_arrays(path, start)) if head[start:].lstrip().startswith(b"{") else []


def ranges(path: Path, how: Layout, after: tuple[int, int] | None = None) -> Iterator[Range]:
    """The rows of a file.

    Args:
        path: the file.
        how: see `layout`.
        after: number and end (offset + size) of the last row that is known already.
    """
    number, offset = after or (0, how.start)
    with path.open("rb") as file:
        file.seek(offset)
        if how.form == "csv":
            yield from _csv_rows(file, how, number, offset)
        elif how.form == "lines":
            yield from _lines(_Scan(file, offset), number, again=after is not None)
        else:
            yield from _values(_Scan(file, offset), number, how)


class _Scan:
    """One chunk of a file and a place in it."""

    def __init__(self, file: BinaryIO, offset: int) -> None:
        self.file, self.base = file, offset
        self.buffer, self.place = b"", 0

    @property
    def offset(self) -> int:
        return self.base + self.place

    def more(self) -> bool:
        """Drop what lies behind, read on; False at the end of the file."""
        chunk = self.file.read(CHUNK)
        self.buffer, self.base, self.place = self.buffer[self.place :] + chunk, self.offset, 0
        return bool(chunk)

    def skip(self, pattern: re.Pattern[bytes]) -> int:
        """Pass over what fits; the byte after it, or -1 at the end of the file."""
        while True:
            found = pattern.match(self.buffer, self.place)
            self.place = found.end() if found else self.place
            if self.place < len(self.buffer):
                return self.buffer[self.place]
            if not self.more():
                return -1

    def value(self) -> bool:
        """Pass over an object, an array or a string that begins here; False if the file ends inside."""
        opening = self.buffer[self.place]
        self.place += 1
        if opening == _QUOTE:
            return self._string()
        depth = 1
        while depth:
            token = _TOKEN.match(self.buffer, self.place)
            if token is None:
                if self.skip(_RUN) < 0:
                    return False
                continue
            self.place = token.end()
            last = self.buffer[self.place - 1]
            if last == _QUOTE:
                if not self._string():
                    return False
            else:
                depth += 1 if last in _OPEN else -1
        return True

    def _string(self) -> bool:
        while self.skip(_REST_OF_STRING) >= 0:
            if self.buffer[self.place] == _QUOTE:
                self.place += 1
                return True
            if not self.more():  # a backslash, and what it escapes is in the next chunk
                return False
        return False


def _values(scan: _Scan, number: int, how: Layout) -> Iterator[Range]:
    """JSON values one after another; of an array, up to the bracket that closes it, and what follows as one row."""
    closed = how.form == "array"
    while True:
        first = scan.skip(_SPACE)
        start = scan.offset
        if first < 0:
            if closed:
                yield Range(number + 1, start, 0, CUT)
            return
        number += 1
        if closed and first == ord("]"):
            scan.place += 1
            if not how.inside and scan.skip(_SPACE) >= 0:
                start = scan.offset
                scan.skip(_ANYTHING)
                yield Range(number, start, scan.offset - start, AFTER)
            return
        if first in b'{["':
            whole = scan.value()
        else:
            whole = True
            scan.skip(_SCALAR)
            scan.place += scan.offset == start  # a bracket that closes nothing
        if not whole:
            scan.place = len(scan.buffer)
            yield Range(number, start, scan.offset - start, CUT)
            return
        yield Range(number, start, scan.offset - start)


def _lines(scan: _Scan, number: int, again: bool) -> Iterator[Range]:
    """Lines that are not blank. They end at \\n only: U+2028 and its like are part of a text."""
    if again:  # the last known row ends before its line does
        number -= 1
    while True:
        start, text = scan.offset, False
        while (end := scan.buffer.find(b"\n", scan.place)) < 0:
            text = text or bool(scan.buffer[scan.place :].strip())
            scan.place = len(scan.buffer)
            if not scan.more():
                if text:
                    yield Range(number + 1, start, scan.offset - start)
                return
        number += 1
        text = text or bool(scan.buffer[scan.place : end].strip())
        scan.place = end
        if text and not again:
            yield Range(number, start, scan.offset - start)
        again = False
        scan.place += 1


def _csv_rows(file: BinaryIO, how: Layout, number: int, offset: int) -> Iterator[Range]:
    csv.field_size_limit(MAX_ROW_BYTES)
    read = offset

    def lines() -> Iterator[str]:
        nonlocal read
        for raw in iter(partial(file.readline, MAX_ROW_BYTES), b""):
            read += len(raw)
            yield raw.decode("utf-8", errors="replace")

    rows = csv.reader(lines(), delimiter=how.delimiter, strict=True)
    while True:
        start, fault, row = read, "", ["?"]
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            fault = CUT if "unexpected end" in str(error) else NO_CSV
        if any(row):
            number += 1
            yield Range(number, start, read - start, fault)


def _csv_layout(path: Path, how: Layout) -> Layout:
    with path.open("rb") as file:
        file.seek(how.start)
        first = next(_csv_rows(file, how, 0, how.start), None)
        if first is None or first.fault or first.size > MAX_ROW_BYTES:
            raise SourceError(f"{path}: expected a line of column names, found none")
        file.seek(first.offset)
        text = file.read(first.size).decode("utf-8", errors="replace")
    names = next(csv.reader([text], delimiter=how.delimiter))
    return replace(how, start=first.offset + first.size, columns=tuple(name.strip() for name in names))


def _arrays(path: Path, start: int) -> dict[str, int]:
    """Name to the offset after the bracket, of every array in the file's object."""
    stat = path.stat()
    return _scanned_arrays(path, start, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=16)
def _scanned_arrays(path: Path, start: int, size: int, mtime_ns: int) -> dict[str, int]:
    found: dict[str, int] = {}
    with path.open("rb") as file:
        file.seek(start)
        scan = _Scan(file, start)
        scan.skip(_SPACE)
        scan.place += 1
        while scan.skip(_SPACE) == _QUOTE:
            key = scan.offset
            if not scan.value():
                break
            name = _read(path, key, scan.offset - key)
            first = scan.skip(_SPACE)
            if first == ord("["):
                found[name] = scan.offset + 1
            if first not in b'{["':
                scan.skip(_SCALAR)
            elif not scan.value():
                break
    return found


def _read(path: Path, offset: int, size: int) -> str:
    with path.open("rb") as file:
        file.seek(offset)
        try:
            return str(json.loads(file.read(min(size, 1000))))
        except ValueError:
            return ""


def _lines_or_values(text: bytes) -> Form:
    """Lines, unless the first line is only the beginning of a value, or holds several."""
    line, _, _ = text.partition(b"\n")
    decoded = line.decode("utf-8", errors="replace").strip()
    try:
        _, end = json.JSONDecoder().raw_decode(decoded)
    except (ValueError, RecursionError):
        return "values" if decoded[-1:] in ("{", "[", ",", ":") or line == text else "lines"
    return "values" if decoded[end:].strip() else "lines"


def _refuse(head: bytes, path: Path) -> None:
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            raise SourceError(f"{path}: expected text, got a file compressed with {name}. Unpack it first")
    if head.startswith(b"PAR1"):
        raise SourceError(
            f"{path}: expected JSON or CSV, got Parquet. Convert it first: "
            f"datasets.load_dataset('parquet', data_files='{path.name}')['train'].to_json('{path.stem}.jsonl')"
        )
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in head[:4]:
        raise SourceError(
            f"{path}: expected UTF-8, got UTF-16 or UTF-32. Convert it first: "
            f"iconv -f UTF-16 -t UTF-8 {path.name} > converted{path.suffix}"
        )
