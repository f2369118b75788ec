"""What a collection brought, counted and shown: ratings and endings by criterion and turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from dress.data.shards import Shards
from dress.record import CUT


def count_ratings(shards: Shards) -> dict[str, dict[str, list[int]]]:
    """criterion -> turn -> how many answers were rated 1, 2, 3, 4 (and, last, not at all)."""
    counts: dict[str, dict[str, list[int]]] = {}
    for record, _ in shards:
        for dialogue in record.dialogues:
            for number, turn in enumerate(dialogue.turns):
                row = counts.setdefault(dialogue.criterion or "none", {}).setdefault(str(number), [0] * 5)
                row[(turn.rating or 5) - 1] += 1
    return {criterion: dict(sorted(turns.items())) for criterion, turns in sorted(counts.items())}


def count_endings(shards: Shards) -> dict[str, dict[str, dict[str, int]]]:
    """criterion -> turn -> how many answers there are, how many of them were cut, of how many nobody knows."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for record, _ in shards:
        for dialogue in record.dialogues:
            for number, turn in enumerate(dialogue.turns):
                turns = counts.setdefault(dialogue.criterion or "none", {})
                row = turns.setdefault(str(number), {"answers": 0, CUT: 0, "unknown": 0})
                row["answers"] += turn.assistant is not None
                row[CUT] += turn.assistant is not None and turn.cut
                row["unknown"] += turn.assistant is not None and turn.provenance.get("finish_reason") is None
    return {criterion: dict(sorted(turns.items())) for criterion, turns in sorted(counts.items())}


def ratings_table(
    ratings: Mapping[str, Mapping[str, Sequence[int]]],
    endings: Mapping[str, Mapping[str, Mapping[str, int]]],
    stage: str | None = None,
) -> Table:
    """Ratings of collected answers by criterion and turn, and how many of the answers were cut, for a terminal.

    Args:
        ratings: as `count_ratings` gives them.
        endings: as `count_endings` gives them.
        stage: that collected them.
    """
    title = "collected ratings" if stage is None else f"collected ratings, stage {stage}"
    table = Table("criterion", "turn", "1", "2", "3", "4", "unrated", "mean", "cut", title=escape(title))
    for criterion, turns in ratings.items():
        for turn, counts in turns.items():
            rated = sum(counts[:4])
            mean = f"{sum((i + 1) * n for i, n in enumerate(counts[:4])) / rated:.2f}" if rated else "–"
            cut = _cut_share(endings.get(criterion, {}).get(turn, {}))
            table.add_row(escape(criterion), escape(turn), *map(str, counts), mean, cut)
    return table


def _cut_share(endings: Mapping[str, int]) -> str:
    """The share among answers whose end is known, and how many are not."""
    unknown = endings.get("unknown", 0)
    known = endings.get("answers", 0) - unknown
    parts = [f"{endings.get(CUT, 0) / known:.0%}"] if known else []
    return ", ".join([*parts, *([f"{unknown:,} unknown"] if unknown else [])]) or "–"
