"""Values as a Jinja template writes them down."""

from __future__ import annotations

import re
from typing import Any

STRING = r"'(?:[^'\\]|\\.)*'"
"""What `literal` makes of a text, as a regular expression."""


def literal(value: Any) -> str:
    """A text, number, truth value, None, list or mapping as Jinja's source.

    Every character of a text comes back as it is. What ends a literal, opens a tag or is no visible character is
    written as an escape: the source can be searched for tags, split into lines and stored in any encoding of Unicode.
    """
    if isinstance(value, str):
        return f"'{''.join(map(_character, value))}'"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{literal(key)}: {literal(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(literal, value)) + "]"
    return repr(value)


def text_of(source: str) -> str:
    """The text that `literal` wrote.

    Raises:
        ValueError: no such literal.
    """
    if not re.fullmatch(STRING, source, re.DOTALL):
        raise ValueError(f"expected a text in quotes, got {source!r:.80}")
    return source[1:-1].encode("ascii", "backslashreplace").decode("unicode-escape")


def _character(one: str) -> str:
    if one in "'{}":
        return f"\\x{ord(one):02x}"
    return one if one.isprintable() and one != "\\" else one.encode("unicode-escape", "backslashreplace").decode()
