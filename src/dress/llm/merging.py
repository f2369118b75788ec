"""Several ledgers become one, so that what was paid for in parts is asked by nobody again."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from dress.llm.ledger import Ledger

_SUMS = ("attempts", "interrupted", "prompt_tokens", "completion_tokens", "cost")


def merge_ledgers(files: Sequence[Path], out: Path) -> None:
    """Write one ledger of all that these hold; of a call that several hold the first reply stands, and all costs count.

    Raises:
        LedgerError: one of them is no ledger.
    """
    Ledger(out).close()
    for file in files:
        Ledger(file, readonly=True).close()  # refuses what is none
        db = sqlite3.connect(out, isolation_level=None)
        try:
            db.execute("ATTACH ? AS part", (str(file),))
            names = [row[1] for row in db.execute("PRAGMA table_info(calls)")]
            columns, others = ", ".join(names), [name for name in names if name not in (*_SUMS, "key")]
            changes = [f"{name} = {name} + excluded.{name}" for name in _SUMS]
            better = "calls.status != 'done' AND excluded.status = 'done'"
            changes += [f"{name} = CASE WHEN {better} THEN excluded.{name} ELSE calls.{name} END" for name in others]
            db.execute("BEGIN")
            db.execute(
                f"INSERT INTO calls ({columns}) SELECT {columns} FROM part.calls WHERE true "
                f"ON CONFLICT (key) DO UPDATE SET {', '.join(changes)}"
            )
            for table in ("answers", "facts"):
                db.execute(f"INSERT OR IGNORE INTO {table} SELECT * FROM part.{table}")
            db.execute("COMMIT")
        finally:
            db.close()
