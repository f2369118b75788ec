"""What a collection leaves in its folder beside shards, and says at its end."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dress.data.shards import Shards
from dress.feedback.lvlm_nlf import ROWS, write_lvlm_nlf
from dress.feedback.tables import count_endings, count_ratings, ratings_table

LEDGER, UNUSED, BEGIN = "ledger.sqlite", "unused_answers.jsonl", "collect.json"


def show(out: Path, failures: list[dict[str, Any]], unused: list[dict[str, Any]], console: Console) -> None:
    """The tables of a collection; writes its index and its rows of LVLM_NLF."""
    shards = Shards(out)
    write_lvlm_nlf(out / ROWS, (record for record, _ in shards))
    console.print(ratings_table(count_ratings(shards), count_endings(shards)))
    reasons = Counter((row["failed"], row["reason"]) for row in failures)
    reasons += Counter(("unused", row["reason"]) for row in unused)
    empty = sum(turn.assistant == "" for record, _ in shards for d in record.dialogues for turn in d.turns)
    reasons += Counter({("answer", "empty"): empty})
    if reasons:
        table = Table("what", "why", "number", title="not as it should be")
        for (what, why), number in sorted(reasons.items()):
            table.add_row(what, str(why), f"{number:,}")
        console.print(table)
    console.print(f"shards: {out}", highlight=False)
