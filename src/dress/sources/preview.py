"""What an import is about to do: what each column is taken for, and the first rows as records."""

from __future__ import annotations

import json
from typing import Any

import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from dress.config.tasks import Import
from dress.sources.guessing import placed
from dress.sources.importing import origin_of
from dress.sources.merging import derived_key, merged
from dress.sources.own_rows import OwnRows
from dress.sources.protocol import Place, RowError

RECORDS, LONGEST = 3, 300
"""Records that are shown, and characters of a text in them."""
EXAMPLE = 60
"""Characters of an example of a column."""
TURNED_OVER = ("image", "user", "assistant", "rating", "critique")
"""Roles that are shown also where no column has them."""


def show_preview(source: OwnRows, settings: Import, console: Console) -> None:
    """Open a table and print what its columns are taken for, and three of its rows as records.

    Raises:
        SourceError: the table cannot be read, or its columns need to be named.
    """
    path, images = origin_of(settings)
    source.open(path, images)
    table = Table(title=f"{path}: what is taken for what")
    for name in ("in the record", "column", "example"):
        table.add_column(name, overflow="fold")
    for role in [*source.meaning, *(role for role in TURNED_OVER if role not in source.meaning)]:
        column = placed(source.meaning, role)
        table.add_row(role, column or "(none)", _example(source, role) if column else "")
    left = _other_columns(source)
    if left:
        table.add_row("extra", ", ".join(left), "")
    console.print(table)
    rating = source.mapping.rating
    if rating is not None:
        stated = f"from {rating.from_[0]:g} (worst) to {rating.from_[1]:g} (best)" if rating.from_ else f"{rating.map}"
        console.print(f"Ratings: {stated}, mapped to 1-4; the original is kept.")
    file = source.row_files(path)[0].file.name
    for number, row in enumerate(source.first[:RECORDS], 1):
        console.print(f"Row {number} as a record:")
        console.print(_record(source, row, Place(file, number)))


def _example(source: OwnRows, role: str) -> str:
    cells = (source.cells(row, Place("", 0)) for row in source.first)
    value = next((value for one in cells if (value := one.value(role)) not in (None, "", [])), None)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    return text if len(text) <= EXAMPLE else text[:EXAMPLE] + " …"


def _other_columns(source: OwnRows) -> list[str]:
    in_use = {place[0] for columns in source.meaning.values() for one in columns for place in one}
    return [name for name in dict.fromkeys(name for row in source.first for name in row) if name not in in_use]


def _record(source: OwnRows, row: dict[str, Any], place: Place) -> str:
    try:
        part = source.part(row, place)
        record = merged([part], part.key or derived_key(part, place), source.name)
    except RowError as error:
        return f"rejected ({error.reason}): {error.detail}"
    except ValidationError as error:
        return f"rejected (bad field): {error.errors()[0]['msg']}"
    plain = record.model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(_short(plain), sort_keys=False, allow_unicode=True, width=110).rstrip()


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _short(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_short(inner) for inner in value]
    return value[:LONGEST] + " …" if isinstance(value, str) and len(value) > LONGEST else value
