"""One row with the meaning of its columns: what stands for a role, and what nobody took."""

from __future__ import annotations

from typing import Any

from dress.sources.cells import ABSENT, look_up, without
from dress.sources.guessing import Meaning, placed
from dress.sources.protocol import RowError


class RowCells:
    """What a row holds for each role. What is taken is known; `rest` is what is not.

    Args:
        row: its columns.
        meaning: role to columns.
    """

    def __init__(self, row: dict[str, Any], meaning: Meaning) -> None:
        self._row, self._meaning = row, meaning
        self._taken: list[str] = []

    def name(self, role: str) -> str:
        """The columns of a role, for messages."""
        return placed(self._meaning, role) or role

    def value(self, role: str) -> Any:
        """What the row holds for a role: one value, or of several columns a list; None where nothing stands."""
        self._taken.append(role)
        values = [self._first(one) for one in self._meaning.get(role, ())]
        return values if len(values) > 1 else next(iter(values), None)

    def _first(self, places: Any) -> Any:
        values = (look_up(self._row, place) for place in places)
        return next((value for value in values if value is not ABSENT and value is not None), None)

    def text(self, role: str) -> str | None:
        """A text; None where it is missing or blank.

        Raises:
            RowError: something else stands there.
        """
        value = self.value(role)
        return None if value is None else plain_text(value, self.name(role))

    def each(self, role: str, number: int, several: bool) -> list[Any]:
        """What the row holds for a role about each of so many answers.

        Raises:
            RowError: not as many values.
        """
        value = self.value(role)
        if value is None:
            return [None] * number
        if not several:
            return [value]
        if not isinstance(value, list) or len(value) != number:
            raise RowError("bad field", f"{self.name(role)}: expected a list of {number} values, got {value!r:.80}")
        return value

    def rest(self) -> dict[str, Any]:
        """The row without what was taken."""
        value: Any = self._row
        for role in self._taken:
            for one in self._meaning.get(role, ()):
                for place in one:
                    value = value if value is ABSENT else without(value, place)
        return {} if value is ABSENT else value


def plain_text(value: Any, field: str) -> str | None:
    """The text of a cell: itself, or that of a message, or of the last message of a list; None where blank.

    Raises:
        RowError: none of these.
    """
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        value = value[-1]
    if isinstance(value, dict):
        value = next((value[name] for name in ("value", "content", "text") if name in value), value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)  # the answer to how many
    if not isinstance(value, str):
        raise RowError("bad field", f"{field}: expected text, got {value!r:.80}")
    return value if value.strip() else None
