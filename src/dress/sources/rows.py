"""A row as it stands in a file, before anybody knows what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from dress.base.parts import PartNumber
from dress.data.index import MAX_JSON_BYTES

MAX_ROW_BYTES = MAX_JSON_BYTES
"""Largest row that is read: a record is no larger either."""
CUT = "cut short"


class Fault(NamedTuple):
    """Why a row, or all rows of a record, cannot be used: a few words to count by; and field, expected, got."""

    reason: str
    detail: str


class Row(NamedTuple):
    """A row's number (of JSON lines: of the line; else of the row, from 1), its bytes, and what is wrong with them.

    `data` is JSON unless there is a fault; of a row above `MAX_ROW_BYTES` it is the beginning. `images` are those
    that the row's file holds itself, by the name that `data` calls them.
    """

    number: int
    data: bytes
    fault: Fault | None = None
    images: tuple[tuple[str, bytes], ...] = ()


Rows = Callable[[int], Iterator[Row]]
"""The rows of a file behind the one of that number; 0: all."""
BLOCK_ROWS = 100
"""Rows that go to one part together."""


class Blocks(NamedTuple):
    """Which rows of a file are those of a part: blocks in turn, so that nobody has to know how many rows there are.

    `first` is the part that gets the first block: small files go to different ones.
    """

    part: PartNumber
    first: int

    def has(self, number: int) -> bool:
        """Whether the row of that number is one of them."""
        return ((number - 1) // BLOCK_ROWS + self.first) % self.part.of == self.part.number

    def any(self, first: int, last: int) -> bool:
        """Whether one of these rows is."""
        return any(map(self.has, (*range(first, last, BLOCK_ROWS), last)))


def too_large(size: int, where: str) -> Fault:
    """The fault of a row of `size` bytes."""
    return Fault("too large", f"expected a row of at most {MAX_ROW_BYTES:,} bytes, got {size:,} {where}")
