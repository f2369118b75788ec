"""Which files of a folder hold rows, and what reads them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from dress.sources.arrow_rows import arrow_rows
from dress.sources.protocol import RowFile, SourceError
from dress.sources.rows import Blocks, Rows
from dress.sources.text_rows import read_whole, text_rows

PARQUET = ("*.parquet", "data/*.parquet")
"""In a folder that holds none of the format's own files; `data/` is where repositories of sets have them."""
SAVED_SET, SAVED_SPLITS = "state.json", "dataset_dict.json"
"""What `datasets.save_to_disk` writes beside Arrow files; beside folders of them, one a split."""
NO_ROWS = {SAVED_SET, SAVED_SPLITS, "dataset_info.json", "dataset_infos.json"}
_TEST = re.compile(r"(test|val|valid|validation|dev|eval|evaluation)([-_.\d].*)?", re.IGNORECASE)


def rows_of(row_file: RowFile, blocks: Blocks | None = None) -> Rows:
    """What reads the rows of a file, or those of a part.

    Raises:
        SourceError: no such file or array, no column names, compressed, or UTF-16 or UTF-32.
    """
    if is_arrow(row_file.file):
        return arrow_rows(row_file.file, blocks)
    rows = text_rows(row_file)
    return rows if blocks is None else lambda after: (row for row in rows(after) if blocks.has(row.number))


def is_arrow(file: Path) -> bool:
    """Whether a file is Parquet or Arrow: by its name, or by its first bytes."""
    if file.suffix in (".parquet", ".arrow") or not file.is_file():
        return file.suffix in (".parquet", ".arrow")
    with file.open("rb") as opened:
        return opened.read(4) == b"PAR1"


def row_files_of(path: Path, *patterns: str) -> list[RowFile]:
    """The file itself; or of a folder what `datasets.save_to_disk` wrote, files that fit, or Parquet, by name.

    Of several splits that Parquet and Arrow files are in, the publisher's test and validation are marked as such.

    Raises:
        SourceError: none there, or a description that is damaged.
    """
    if path.is_file():
        return [RowFile(path)]
    files = [RowFile(file) for file in _matches(path, patterns) if file.name not in NO_ROWS]
    row_files = (
        _saved_files(path) or files or [RowFile(file, test=is_test(file.name)) for file in _matches(path, PARQUET)]
    )
    if not row_files:
        raise SourceError(f"{path}: expected {' or '.join(patterns)} or Parquet in it, found none")
    return row_files


def _matches(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})


def is_test(name: str) -> bool:
    """Whether a file or a folder is named as a publisher's test or validation split."""
    return _TEST.fullmatch(name) is not None


def _saved_files(folder: Path) -> list[RowFile]:
    """Tables of a folder that `save_to_disk` wrote, in its order; none of another folder."""
    if (folder / SAVED_SPLITS).is_file():
        names = _listed(folder / SAVED_SPLITS, "splits", lambda name: name)
        return [
            RowFile(row_file.file, test=is_test(name)) for name in names for row_file in _saved_files(folder / name)
        ]
    if (folder / SAVED_SET).is_file():
        names = _listed(folder / SAVED_SET, "_data_files", lambda entry: entry["filename"])
        return [RowFile(folder / name) for name in names]
    return []


def _listed(file: Path, field: str, name_of: Any) -> list[str]:
    """File names that a description lists."""
    try:
        names = [name_of(entry) for entry in read_whole(file)[field]]
        if not all(re.fullmatch(r"[^/\\\0]+", name) and name != ".." for name in names):
            raise ValueError("a name that is none of a file beside it")
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(f"{file}: expected {field}, a list of names of files beside it ({error})") from None
    return names
