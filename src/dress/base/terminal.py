"""What is printed: foreign text stands on a terminal as it is, and can neither style nor steer it.

Names, keys, answers and replies come from files and servers. In them `[/b]` is no markup, and what a
terminal would obey (ESC and its like) is shown as a sign.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

_SIGNS = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"},  # ␀ … ␛ … ␟
    0x7F: 0x2421,  # ␡
    **dict.fromkeys((*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)), 0xFFFD),  # C1, directions
}


def visible(text: str) -> str:
    """The text with one visible sign for each control character but tab and newline; C1 and bidi ones become �."""
    return text.translate(_SIGNS)


class Terminal(Console):
    """A console for text of any origin: no markup, no emoji codes, no highlighting, no control characters.

    Args:
        options: rich's, but for those that turn this off.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def accept_any_text() -> None:
    """Let standard output and error write what their encoding lacks (ASCII, half a surrogate pair) as `\\u2013`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not where a test or a notebook put something else there
            stream.reconfigure(errors="backslashreplace")
