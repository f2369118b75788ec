"""Strict JSON: what is read is what stands there, or it is refused; and lines of a reject file."""

from __future__ import annotations

import json
import math
import re
from itertools import accumulate
from typing import Any, NoReturn

from dress.sources.protocol import Place, RowError

MAX_DEPTH = 100
"""Brackets inside brackets: what is deeper could be read here, but not from the finished record."""

REJECT_FIELDS = {"file", "line", "reason", "detail", "row"}


def parse_bytes(data: bytes) -> Any:
    """The JSON value that UTF-8 bytes hold.

    Raises:
        RowError: not UTF-8; else as `parse`.
    """
    try:
        return parse(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RowError("not UTF-8", str(error)) from None


def parse(text: str) -> Any:
    """The JSON value of a text.

    Raises:
        RowError: no JSON, a number that is not finite, a name twice in an object, half of a surrogate pair, or
            more than `MAX_DEPTH` brackets inside brackets.
    """
    if text.count("[") + text.count("{") > MAX_DEPTH and (depth := _depth(text)) > MAX_DEPTH:
        raise RowError("nested too deep", f"expected at most {MAX_DEPTH} levels, got {depth:,}")
    try:
        value = _STRICT.decode(text)
    except RowError:
        raise
    except (ValueError, RecursionError) as error:
        raise RowError("not JSON", str(error)) from None
    if "\\ud" in text or "\\uD" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise RowError("broken text", f"expected Unicode text, got half of a pair ({error.reason})") from None
    return value


def unwrapped(reject: Any) -> tuple[Any, Place]:
    """The row that a line of a reject file holds, repaired or not, and where it stood at first.

    Raises:
        RowError: no line of a reject file, or its row is still no JSON.
    """
    if not is_reject(reject):
        raise RowError("no reject", f"expected the fields {', '.join(sorted(REJECT_FIELDS))}, got {reject!r:.80}")
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
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RowError("name twice", f"expected every name once in an object, got {twice!r:.80} twice")
    return members


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text:.80} is too large a number")
    return number


_TEXT, _BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+"?', re.DOTALL), re.compile(r"[\[\]{}]")
_STRICT = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_number, parse_float=_finite)


def _depth(text: str) -> int:
    """Of brackets outside of texts."""
    brackets = _BRACKET.findall(_TEXT.sub("", text))
    return max(accumulate(1 if bracket in "[{" else -1 for bracket in brackets), default=0)
