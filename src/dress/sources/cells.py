"""Looking into a row: columns, fields of columns, and what is left when they are taken out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

Place = tuple[str, ...]
"""A column, and the fields inside it."""
ABSENT: Any = object()
"""What stands at a place that is not there."""
ANSWER = "answer"
"""Of an object in a list of what several people answered, as VQA has it."""
_PARTS_OF_IMAGE = ("bytes", "path")
"""A struct of them has become the image's name (`arrow_rows`)."""


def alternatives(stated: str, columns: Sequence[str]) -> tuple[list[Place], bool]:
    """The places that a mapping's text names, the first that is not null counts; and whether they may be missing.

    A column whose whole name is the text is meant before all else: `Was ist das?` is a column where there is one.
    """
    if stated in columns:
        return [(stated,)], False
    optional = stated.endswith("?")
    names = stated.removesuffix("?").split("|") if optional or "|" in stated else [stated]
    return [_place(name, columns) for name in names], optional


def _place(name: str, columns: Sequence[str]) -> Place:
    """The longest beginning that is a column's name, then field by field."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        column = ".".join(parts[:end])
        if column in columns:
            return column, *parts[end:]
    return tuple(parts)


def look_up(value: Any, place: Place) -> Any:
    """What stands at a place; of a list, what each of its entries has there; `ABSENT` where nothing stands."""
    if not place:
        return value
    value, name = opened_json(value), place[0]
    if isinstance(value, list):
        if name.isdigit():
            return look_up(value[int(name)], place[1:]) if int(name) < len(value) else ABSENT
        inner = [look_up(one, place) for one in value]
        return ABSENT if inner and all(one is ABSENT for one in inner) else [None if o is ABSENT else o for o in inner]
    if isinstance(value, dict):
        return look_up(value[name], place[1:]) if name in value else ABSENT
    if isinstance(value, str) and place in [(part,) for part in _PARTS_OF_IMAGE]:
        return value if name == "bytes" else ABSENT
    return None if value is None else ABSENT


def without(value: Any, place: Place) -> Any:
    """The value without what stands at a place; `ABSENT` where nothing is left."""
    if not place:
        return ABSENT
    opened, name = opened_json(value), place[0]
    if isinstance(opened, list):
        if name.isdigit():
            inner = [without(one, place[1:]) if number == int(name) else one for number, one in enumerate(opened)]
        else:
            inner = [without(one, place) for one in opened]
        return ABSENT if all(one is ABSENT for one in inner) else [{} if one is ABSENT else one for one in inner]
    if isinstance(opened, dict):
        if name not in opened:
            return value
        inner_value = without(opened[name], place[1:])
        rest = {key: one for key, one in opened.items() if key != name}
        if inner_value is not ABSENT:
            rest = {key: inner_value if key == name else one for key, one in opened.items()}
        return rest or ABSENT
    return ABSENT if isinstance(value, str) and name in _PARTS_OF_IMAGE else value


def opened_json(value: Any) -> Any:
    """The object or list that a text holds as JSON; any other value as it is."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            inner = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return inner if isinstance(inner, dict | list) else value
    return value


def is_answers(value: Any) -> bool:
    """Whether it is a list of `{"answer": text, …}`, as VQA has what people answered."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) and ANSWER in one for one in value)
