"""Files of questions and answers that are tables, and the names under which their rows hold what.

One list of names for every file that is joined to something: an answer names its question by an id, by a record's key,
or by image and words, whichever stands there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NUMBERS = ("question_id", "id")
"""Of a question, as its publisher has them."""
KEY = "key"
"""Of a record; of a question where it has no number."""
IMAGES = ("image", "image_id")
QUESTIONS = ("question", "user", "prompt", "query", "instruction")
ANSWERS = ("answer", "assistant", "response", "text", "output", "caption")

_TABLES = (".csv", ".tsv", ".parquet", ".arrow")


def is_table(path: Path) -> bool:
    """Whether a file is CSV, TSV, Parquet or Arrow: by its name, or by its first bytes."""
    from dress.sources.row_files import is_arrow

    return path.suffix.lower() in _TABLES or is_arrow(path)


def table_rows(path: Path) -> Iterator[tuple[int, dict[str, Any], str | None]]:
    """Number (from 1), fields and damage of every row of a table; empty cells are no fields.

    Raises:
        SourceError: no such file, no column names, compressed, or not UTF-8.
    """
    from dress.sources.protocol import RowFile
    from dress.sources.row_files import rows_of

    for row in rows_of(RowFile(path))(0):
        if row.fault is not None:
            yield row.number, {}, row.fault.reason
        else:
            fields = json.loads(row.data)
            yield row.number, {name: value for name, value in fields.items() if value not in (None, "")}, None
