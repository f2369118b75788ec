"""The value of a row from its bytes: strict JSON, or a line of CSV; and rows of a reject file."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any, NoReturn

from dress.sources.ranges import AFTER, CUT, MAX_ROW_BYTES, Layout, Range, layout
from dress.sources.rows import Place, Rejected, SourceError, Table

MAX_DEPTH = 100
"""Brackets inside brackets: what is deeper could be read here, but not from the finished record."""

REJECT_FIELDS = {"file", "line", "reason", "detail", "row"}


def value(raw: bytes, row: Range, how: Layout) -> Any:
    """The JSON value of a row, or a dict of texts by column.

    Raises:
        Rejected: too large, cut, not UTF-8, not JSON, nested too deep, a name twice in an object, or text
            that is no Unicode.
    """
    if row.fault == CUT:
        expected = "the end of the row" if row.size else "the bracket that closes the array"
        raise Rejected(CUT, f"expected {expected}, got the end of the file")
    if row.fault:
        expected = "the end of the file" if row.fault == AFTER else "a line of columns"
        raise Rejected(row.fault, f"expected {expected}, got {raw!r:.80}")
    if row.size > MAX_ROW_BYTES:
        raise Rejected("too large", f"expected a row of at most {MAX_ROW_BYTES:,} bytes, got {row.size:,}")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Rejected("not UTF-8", str(error)) from None
    return _csv(text, how) if how.form == "csv" else parse(text)


def parse(text: str) -> Any:
    """Strict JSON: finite numbers, no name twice in one object, no half of a surrogate pair, not too deep."""
    if text.count("[") + text.count("{") > MAX_DEPTH and (depth := _depth(text)) > MAX_DEPTH:
        raise Rejected("nested too deep", f"expected at most {MAX_DEPTH} levels, got {depth:,}")
    try:
        value = _STRICT.decode(text)
    except Rejected:
        raise
    except (ValueError, RecursionError) as error:
        raise Rejected("not JSON", str(error)) from None
    if "\\ud" in text or "\\uD" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise Rejected("broken text", f"expected Unicode text, got half of a pair ({error.reason})") from None
    return value


def read_whole(path: Path) -> Any:
    """The value of a JSON file that is small beside the rows.

    Raises:
        SourceError: no such file, compressed, UTF-16, or not JSON.
    """
    layout(Table(path))
    try:
        return parse(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise SourceError(f"{path}: expected JSON in UTF-8, got something else ({error})") from None


def unwrapped(reject: Any) -> tuple[Any, Place]:
    """The row that a line of a reject file holds, repaired or not, and where it stood at first.

    Raises:
        Rejected: no line of a reject file, or its row is still no JSON.
    """
    if not is_reject(reject):
        raise Rejected("no reject", f"expected the fields {', '.join(sorted(REJECT_FIELDS))}, got {reject!r:.80}")
    place = Place(reject["file"], reject["line"], reject.get("array", ""))
    row = reject["row"]
    return (parse(row) if isinstance(row, str) else row), place


def is_reject(value: Any) -> bool:
    """Whether a value is a line of a reject file."""
    return (
        isinstance(value, dict)
        and value.keys() >= REJECT_FIELDS
        and isinstance(value["file"], str)
        and isinstance(value["line"], int)
        and isinstance(value.get("array", ""), str)
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Rejected("name twice", f"expected every name once in an object, got {twice!r:.80} twice")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text:.80} is too large a number")
    return number


_STRICT = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_number, parse_float=_finite)


def _depth(text: str) -> int:
    """Of brackets outside of texts."""
    deepest = depth = 0
    quoted = escaped = False
    for letter in text:
        if quoted:
            quoted = escaped or letter != '"'
            escaped = letter == "\\" and not escaped
        elif letter == '"':
            quoted = True
        elif letter in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif letter in "]}":
            depth -= 1
    return deepest


def _csv(text: str, how: Layout) -> dict[str, str]:
    cells = next(csv.reader(io.StringIO(text, newline=""), delimiter=how.delimiter, strict=True))
    if len(cells) != len(how.columns):
        raise Rejected("bad columns", f"expected {len(how.columns)} columns, got {len(cells)}: {cells!r:.80}")
    return dict(zip(how.columns, cells, strict=True))
