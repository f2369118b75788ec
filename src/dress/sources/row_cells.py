"""One row with the meaning of its columns: what stands for a role, and what stands for none."""

from __future__ import annotations

from typing import Any

from dress.sources.cells import ABSENT, ANSWER, is_answers, look_up, opened_json, without
from dress.sources.guessing import Meaning, placed
from dress.sources.protocol import RowError


class RowCells:
    """What a row holds for each role. Roles that were asked for are remembered; `rest` is what none of them has.

    Args:
        row: its columns.
        meaning: role to columns.
        only_texts: cells hold nothing but texts, as in CSV: a list stands there as JSON.
    """

    def __init__(self, row: dict[str, Any], meaning: Meaning, only_texts: bool = False) -> None:
        self._row, self._meaning, self._only_texts = row, meaning, only_texts
        self._roles: list[str] = []

    def name(self, role: str) -> str:
        """The columns of a role, for messages."""
        return placed(self._meaning, role) or role

    def has(self, role: str) -> bool:
        """Whether some column stands for a role."""
        return role in self._meaning

    def value(self, role: str) -> Any:
        """What the row holds for a role: one value, or of several columns a list; None where nothing stands."""
        self._roles.append(role)
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

    def texts(self, role: str) -> list[str]:
        """All texts of a cell: of a list of texts or of `{"answer": text}`, else its only one; blanks are none.

        Raises:
            RowError: something else stands there.
        """
        value = self.value(role)
        values = value if isinstance(value, list) and len(self._meaning.get(role, ())) > 1 else [value]
        entries = [one for cell in values for one in _entries(cell, self._only_texts) if one is not None]
        texts = [plain_text(one, self.name(role)) for one in entries]
        return [text for text in texts if text is not None]

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
        """The row without what stands for a role that was asked for."""
        value: Any = self._row
        for role in self._roles:
            for one in self._meaning.get(role, ()):
                for place in one:
                    value = value if value is ABSENT else without(value, place)
        return {} if value is ABSENT else value


def _entries(cell: Any, json: bool) -> list[Any]:
    """The entries of a list of texts, or of what people answered; a cell that is none is one entry itself."""
    opened = opened_json(cell) if json else cell
    if is_answers(opened):
        return [one[ANSWER] for one in opened]
    if isinstance(opened, list) and all(isinstance(one, str | None) for one in opened):
        return opened
    return [cell]


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
