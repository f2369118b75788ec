"""Rows of JSON and CSV files, cut out byte for byte and not parsed.

Nothing but the row at hand is in memory, and of a row above the limit only its beginning. A row that is broken costs
itself; `docs/decisions.md` (Import) says why no JSON library does the cutting.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO

from dress.sources.protocol import RowFile, SourceError
from dress.sources.rows import CUT, MAX_ROW_BYTES, Fault, Row, Rows, too_large
from dress.sources.strict_json import parse

CHUNK = 1 << 20
HEAD = 1 << 16
"""Bytes that tell what a file is."""
DELIMITERS = ",;\t"
"""Of CSV; the first where they part as many columns."""
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
# Brackets, and what stands between them: 500 strings and runs of other bytes at most, which end at a separator where
# there is one, so that a token stays short. Last, a string that does not end in this chunk.
_RUN = rb'[^"{}\[\]]{1,10000}(?<=[\s,:])|[^"{}\[\]]++'
_TOKEN = re.compile(rb"(?:" + _RUN + rb"|" + _STRING + rb'){1,500}+|[{}\[\]]|(?P<open>".*)', re.DOTALL)
_SCALAR = re.compile(_STRING + rb'|[^\s,:"]++|".*', re.DOTALL)
_NAME_OF_ARRAY = re.compile(rb"(" + _STRING + rb")\s*:\s*\Z", re.DOTALL)
_BOM = b"\xef\xbb\xbf"
_COMPRESSED = {b"\x1f\x8b": "gzip", b"PK": "zip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ": "xz", b"BZh": "bzip2"}


def text_rows(row_file: RowFile) -> Rows:
    """Finds out how the rows of a file stand; what it returns reads them.

    Raises:
        SourceError: no such file or array, no column names, compressed, or UTF-16 or UTF-32.
    """
    path, head, start = row_file.file, *_head(row_file.file)
    suffix = path.suffix.lower()
    if row_file.array:
        offsets = _arrays_at(path, path.stat().st_mtime_ns)
        if row_file.array not in offsets:
            there_are = ", ".join(offsets) or "none"
            raise SourceError(f"{path}: expected an array {row_file.array!r}, got these arrays: {there_are}")
        return partial(_read, path, partial(_values, closed=True, inside=True), offsets[row_file.array])
    if suffix in (".csv", ".tsv"):
        _refuse_other_encoding(path, head)
        delimiter = "\t" if suffix == ".tsv" else _delimiter(path, start)
        with path.open("rb") as file:
            file.seek(start)
            _, names, fault = next(_csv_lines(file, delimiter), (b"", [], None))
        if not names or fault:
            raise SourceError(f"{path}: expected a line of column names, found none")
        columns = [name.strip() for name in names]
        return partial(_read, path, partial(_csv, delimiter=delimiter, columns=columns), start)
    text = head[start:].lstrip()
    if suffix not in (".jsonl", ".ndjson"):
        if text.startswith(b"["):
            return partial(_read, path, partial(_values, closed=True), head.index(b"[", start) + 1)
        if not _are_lines(text):
            return partial(_read, path, _values, start)
    return partial(_read, path, _lines, start)


def arrays(path: Path) -> list[str]:
    """Names of the arrays in a file's first value, if that is a JSON object.

    Raises:
        SourceError: compressed, or UTF-16 or UTF-32.
    """
    head, start = _head(path)
    is_object = head[start:].lstrip().startswith(b"{")
    return list(_arrays_at(path, path.stat().st_mtime_ns)) if is_object else []


def read_whole(path: Path) -> Any:
    """The value of a JSON file that is small beside the rows.

    Raises:
        SourceError: no such file, compressed, or not JSON in UTF-8.
    """
    _head(path)
    try:
        return parse(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise SourceError(f"{path}: expected JSON in UTF-8, got something else ({error})") from None


def _head(path: Path) -> tuple[bytes, int]:
    """A file's beginning, and where its text begins."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise SourceError(f"{path}: expected a file, got none ({error.strerror})") from None
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            raise SourceError(f"{path}: expected text, got a file compressed with {name}. Unpack it first")
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in head[:4]:
        command = f"iconv -f UTF-16 -t UTF-8 {path.name} > converted{path.suffix}"
        raise SourceError(f"{path}: expected UTF-8, got UTF-16 or UTF-32. Convert it first: {command}")
    return head, len(_BOM) if head.startswith(_BOM) else 0


def _refuse_other_encoding(path: Path, head: bytes) -> None:
    """Raises SourceError: several lines hold more than ASCII, and none of them is UTF-8."""
    lines = [line for line in head.splitlines()[: None if len(head) < HEAD else -1] if not line.isascii()]
    if len(lines) > 1 and not any(map(_is_utf8, lines)):
        command = f"iconv -f CP1252 -t UTF-8 {path.name} > converted{path.suffix}"
        raise SourceError(
            f"{path}: expected UTF-8, got another encoding (of Excel usually Windows-1252). Convert it first: {command}"
        )


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _delimiter(path: Path, start: int) -> str:
    """What parts the most column names in the first line: a comma, or a semicolon where Excel writes decimal commas."""

    def columns(delimiter: str) -> int:
        with path.open("rb") as file:
            file.seek(start)
            _, names, fault = next(_csv_lines(file, delimiter), (b"", [], None))
        return 0 if fault else len(names)

    return max(DELIMITERS, key=columns)


def _are_lines(text: bytes) -> bool:
    """Unless the first line is only the beginning of a value, or holds several."""
    line, _, _ = text.partition(b"\n")
    decoded = line.decode("utf-8", errors="replace").strip()
    try:
        _, end = json.JSONDecoder().raw_decode(decoded)
    except (ValueError, RecursionError):
        return decoded[-1:] not in ("{", "[", ",", ":") and line != text
    return not decoded[end:].strip()


def _read(path: Path, form: Callable[[BinaryIO], Iterator[Row]], start: int, after: int) -> Iterator[Row]:
    with path.open("rb") as file:
        file.seek(start)
        yield from (row for row in form(file) if row.number > after)


def _lines(file: BinaryIO) -> Iterator[Row]:
    """Lines that are not blank. They end at \\n only: U+2028 and its like are part of a text."""
    number = 0
    while line := file.readline(MAX_ROW_BYTES + 2):
        number += 1
        size, piece = len(line), line
        while not piece.endswith(b"\n") and (piece := file.readline(CHUNK)):
            size += len(piece)
        if size > len(line):
            yield Row(number, line[:1000], too_large(size, f"in line {number}"))
        elif line.strip():
            yield Row(number, line.removesuffix(b"\n"))


def _tokens(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of each bracket, and of what stands between two of them, in pieces that cut no scalar."""
    base, buffer, chunk = file.tell(), b"", b"?"
    while chunk:
        chunk = file.read(CHUNK)
        buffer, place = buffer + chunk, 0
        for token in _TOKEN.finditer(buffer):
            if chunk and token.end() == len(buffer):  # it may go on in the next chunk
                break
            place = token.end()
            yield base + token.start(), token[0]
        base, buffer = base + place, buffer[place:]
        if len(buffer) > MAX_ROW_BYTES:  # its row is rejected: only where it ends is of interest
            backslashes = len(buffer) - len(buffer.rstrip(b"\\"))
            remainder = b'"' + b"\\" * (backslashes % 2) if token["open"] else b"0"
            base, buffer = base + len(buffer) - len(remainder), remainder


def _values(file: BinaryIO, closed: bool = False, inside: bool = False) -> Iterator[Row]:
    """JSON values one after another; of an array, up to the bracket that closes it, and what follows as one row."""
    number = depth = begin = 0

    def row(begin: int, end: int, fault: Fault | None = None) -> Row:
        size = end - begin
        if size > MAX_ROW_BYTES and not fault:
            fault = too_large(size, f"at byte {begin:,}")
        return Row(number, os.pread(file.fileno(), 1000 if size > MAX_ROW_BYTES else size, begin), fault)

    for offset, token in _tokens(file):
        end = offset + len(token)
        if token in (b"{", b"["):
            begin = begin if depth else offset
            depth += 1
        elif token in (b"}", b"]") and depth:
            depth -= 1
            if not depth:
                number += 1
                yield row(begin, end)
        elif token == b"]" and closed:
            number += 1
            rest = b"" if inside else os.pread(file.fileno(), MAX_ROW_BYTES, end).strip()
            if rest:
                yield Row(number, rest, Fault("after the array", f"expected the end of the file, got {rest!r:.80}"))
            return
        elif not depth:
            for scalar in [(0, len(token))] if token in (b"}", b"]") else map(re.Match.span, _SCALAR.finditer(token)):
                number += 1
                yield row(offset + scalar[0], offset + scalar[1])
    number += 1
    if depth:
        yield row(begin, file.tell(), Fault(CUT, "expected the end of the row, got the end of the file"))
    elif closed:
        yield Row(number, b"", Fault(CUT, "expected the bracket that closes the array, got the end of the file"))


@lru_cache(maxsize=16)
def _arrays_at(path: Path, mtime_ns: int) -> dict[str, int]:
    """Name to the offset after the bracket, of every array in the file's object."""
    offsets: dict[str, int] = {}
    depth, before = 0, b""
    with path.open("rb") as file:
        for offset, token in _tokens(file):
            if token in (b"{", b"["):
                name = _NAME_OF_ARRAY.search(before) if (depth, token) == (1, b"[") else None
                if name:
                    offsets[json.loads(name[1].decode(errors="replace"), strict=False)] = offset + 1
                depth, before = depth + 1, b""
            elif token in (b"}", b"]"):
                depth, before = depth - 1, b""
                if depth <= 0:
                    break
            else:
                before = (before + token)[-1000:]
    return offsets


def _csv(file: BinaryIO, delimiter: str, columns: list[str]) -> Iterator[Row]:
    lines = _csv_lines(file, delimiter)
    next(lines)
    for number, (data, cells, fault) in enumerate(lines, 1):
        if not fault and len(cells) != len(columns):
            fault = Fault("bad columns", f"expected {len(columns)} columns, got {len(cells)}: {cells!r:.80}")
        if fault:
            yield Row(number, data, fault)
        else:
            yield Row(number, json.dumps(dict(zip(columns, cells, strict=True)), ensure_ascii=False).encode())


def _csv_lines(file: BinaryIO, delimiter: str) -> Iterator[tuple[bytes, list[str], Fault | None]]:
    """Bytes, cells and fault of every line that is not blank; line breaks in quotes are part of a cell."""
    csv.field_size_limit(MAX_ROW_BYTES)
    pieces: list[bytes] = []

    def text() -> Iterator[str]:
        for piece in iter(partial(file.readline, MAX_ROW_BYTES), b""):
            pieces.append(piece)
            yield piece.decode("utf-8", errors="replace")

    reader = csv.reader(text(), delimiter=delimiter, strict=True)
    while True:
        cells, fault = ["?"], None
        pieces.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            cut = "unexpected end" in str(error)
            fault = Fault(CUT if cut else "not CSV", f"expected a line of columns, got the end ({error})")
        data = b"".join(pieces)
        if len(data) > MAX_ROW_BYTES:
            data, fault = data[:1000], too_large(len(data), "in a line")
        elif not fault:
            try:
                data.decode("utf-8")
            except UnicodeDecodeError as error:
                fault = Fault("not UTF-8", str(error))
        if any(cells):
            yield data, cells, fault
