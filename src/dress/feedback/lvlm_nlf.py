"""Collected feedback as LVLM_NLF's JSON lines, a file per criterion."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dress.base.files import write_lines
from dress.record import CRITERIA, Dialogue, Record
from dress.sources.lvlm_nlf import caption_of, row_of

ROWS = "lvlm_nlf"
"""Folder of the rows, beside the shards."""


def write_lvlm_nlf(folder: Path, records: Iterable[Record]) -> None:
    """Write `folder/<criterion>_nlf.jsonl` for every criterion that was judged."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        for dialogue in record.dialogues:
            criteria = (feedback.criterion for turn in dialogue.turns for feedback in turn.feedback)
            criterion = dialogue.criterion or next(filter(None, criteria), None)
            if criterion is not None:
                rows.setdefault(criterion, []).append(_row(record, dialogue))
    for criterion in CRITERIA:
        file = folder / f"{criterion}_nlf.jsonl"
        if criterion in rows:
            write_lines(file, rows[criterion])
        else:
            file.unlink(missing_ok=True)


def _row(record: Record, dialogue: Dialogue) -> dict[str, Any]:
    return row_of(record.image.id if record.image is not None else record.key, dialogue, caption_of(record, dialogue))
