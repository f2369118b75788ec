"""What a collection could not have: answers and feedback that failed, set aside with reason and raw reply."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dress.base.files import write_lines
from dress.data.shards import Sample
from dress.llm.ledger import Ledger
from dress.record import Dialogue, Record, Turn


def set_failures_aside(samples: Sequence[Sample]) -> tuple[list[Sample], list[dict[str, Any]]]:
    """The samples without turns that got no answer, and a row for everything that failed.

    A dialogue whose first question got no answer is left out, a record without any dialogue too: both
    stand in the rows. An answer that could not be rated stays, with feedback that says so.
    """
    usable: list[Sample] = []
    rows: list[dict[str, Any]] = []
    for record, image in samples:
        dialogues = []
        for dialogue in record.dialogues:
            rows += _failures(record, dialogue)
            turns = [turn for turn in dialogue.turns if turn.assistant is not None]
            if turns:
                dialogues.append(dialogue.model_copy(update={"turns": turns}))
        if dialogues:
            usable.append((record.model_copy(update={"dialogues": dialogues}), image))
    return usable, rows


def _failures(record: Record, dialogue: Dialogue) -> Iterable[dict[str, Any]]:
    for number, turn in enumerate(dialogue.turns):
        for part, reason, call in _failed(turn):
            yield {
                "key": record.key, "criterion": dialogue.criterion, "turn": number, "question": turn.user,
                "answer": turn.assistant, "failed": part, "reason": reason, "call": call,
            }  # fmt: skip


def _failed(turn: Turn) -> Iterable[tuple[str, str, str | None]]:
    if "failed" in turn.provenance:
        yield "answer", turn.provenance["failed"], turn.provenance.get("call")
    for feedback in turn.feedback:
        if "failed" in feedback.extra:
            yield "feedback", feedback.extra["failed"], feedback.extra.get("call")


def write_failures(path: Path, rows: Sequence[dict[str, Any]], ledgers: Sequence[Ledger]) -> None:
    """Write the rows as JSON lines, with what the ledgers know of each call; no file where nothing failed.

    Args:
        path: of the file; one of an earlier collection is replaced, or removed.
        rows: see `set_failures_aside`.
        ledgers: that hold the calls.
    """
    if not rows:
        path.unlink(missing_ok=True)
        return
    keys = [row["call"] for row in rows if row["call"] is not None]
    calls = {key: call for ledger in ledgers for key, call in ledger.get(keys).items()}
    names = ("tries", "raw")  # not the number of attempts: it would tell whether a process was killed
    write_lines(
        path, [row | {name: calls[row["call"]][name] for name in names if row["call"] in calls} for row in rows]
    )
