"""Plain data on disk, written so that a crash leaves the old file or the new one."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write aside, sync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".partial")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def write_json(path: Path, data: Any) -> None:
    """A number that is not finite, which JSON has no word for, is written as null."""
    write_text(path, _dumps(data, indent=1))


def read_json(path: Path) -> Any:
    """Raises ValueError naming the file when it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: expected JSON, got a damaged file ({error})") from None


def write_lines(path: Path, rows: Iterable[Any]) -> None:
    """JSON lines; a number that is not finite is written as null."""
    write_text(path, "".join(_dumps(row) + "\n" for row in rows))


def read_lines(path: Path) -> list[Any]:
    """JSON lines; an error names file and line."""
    rows = []
    # Not splitlines(): that also cuts at U+2028, which may stand in an answer.
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    for number, line in enumerate(lines if lines != [""] else [], start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number}: expected JSON, got {line[:80]!r} ({error})") from None
    return rows


def _dumps(data: Any, indent: int | None = None) -> str:
    try:
        return json.dumps(data, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:  # rare, so the copy is made only then
        return json.dumps(_finite(data), indent=indent, ensure_ascii=False, allow_nan=False)


def _finite(data: Any) -> Any:
    """The same with None in the place of NaN and infinity."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    return [_finite(value) for value in data] if isinstance(data, list | tuple) else data
