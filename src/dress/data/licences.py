"""Under which licences the sets stand that shards were made from, as their imports state them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dress.base.files import read_json

IMPORT_FILE, CONFIG_FILE = "import.json", "config.json"
NOT_STATED = "not stated"
_FOLDERS_ABOVE = 3
"""A split of an import, or of a stage in a run's folder."""


def licences_of(path: Path) -> dict[str, str]:
    """Source (as records name it) to its licence.

    Args:
        path: an import or a split of it, or what a run collected or trained on such data.
    """
    folders = [path, *path.absolute().parents][: _FOLDERS_ABOVE + 1]
    for folder in folders:
        stated = _object(folder / IMPORT_FILE)
        if "source" in stated:
            return {str(stated["source"]): str(stated.get("licence", NOT_STATED))}
    licences: dict[str, str] = {}
    for folder in folders:
        for data in _paths(_object(folder / CONFIG_FILE).get("data")):
            if Path(data) != path and Path(data).is_dir() and _object(Path(data) / IMPORT_FILE):
                licences |= licences_of(Path(data))
    return licences


def licence_of(source: str, licences: dict[str, str]) -> str:
    """Of a record's source, which may be a set's name and a part of it: `lvlm_nlf/honesty`; several stand in a row."""
    names = [name.partition("/")[0] for name in source.split(", ")]
    return ", ".join(dict.fromkeys(licences.get(name, NOT_STATED) for name in names))


def _object(file: Path) -> dict[str, Any]:
    try:
        value = read_json(file)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _paths(value: Any) -> Iterator[str]:
    """Every `path` inside of settings."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "path" and isinstance(inner, str):
                yield inner
            yield from _paths(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _paths(inner)
