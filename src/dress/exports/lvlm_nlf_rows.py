"""`format=lvlm_nlf`: the publishers' JSON lines, a file per criterion.

Dialogues that came from LVLM_NLF go back to their file and row, as they were; others stand behind them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dress.exports.writing import NO_DIALOGUES, Writing, answered
from dress.record import PUBLISHED_ROW, Dialogue, Record, Turn
from dress.sources.fields import plain_path
from dress.sources.lvlm_nlf import caption_of, feedback_of, row_of

AFTER_ALL = 1 << 62
"""Row of a dialogue that was none of LVLM_NLF's."""


class _Row(NamedTuple):
    row: int
    order: int  # of the record in the export
    dialogue: int
    split: str
    number: int  # of the record in its split
    image_id: str


def write(to: Writing) -> None:
    """Find what goes where, then write the rows in order.

    Raises:
        Rejected: a dialogue says that it came from a file outside of the folder.
    """
    rows_of_file: dict[str, list[_Row]] = {}
    for order, sample in enumerate(to.samples()):
        if not sample.record.dialogues:
            to.no_place[NO_DIALOGUES] += 1
        for number, dialogue in enumerate(sample.record.dialogues):
            turns = answered(dialogue)
            file, row = _place(dialogue)
            reason = _unfit(sample.record, dialogue, turns)
            if reason or sample.record.image is None:
                to.leave_out(sample.split, sample.record, number, reason)
                continue
            # A row gets its image's id back, whatever the file is called here.
            name = to.image(sample.record, sample.image) or ""
            image_id = sample.record.image.id if row < AFTER_ALL else name
            rows_of_file.setdefault(file, []).append(_Row(row, order, number, sample.split, sample.number, image_id))
            _count(to, dialogue, turns)
    places = [(file, place) for file, places in sorted(rows_of_file.items()) for place in sorted(places)]
    last: tuple[str, int] | None = None
    for file, place in to.track(places, "write rows"):
        record = to.splits[place.split].record(place.number)
        if place.row < AFTER_ALL and (file, place.row) == last:
            to.leave_out(place.split, record, place.dialogue, f"row {place.row} of {file} once more")
            continue
        last = file, place.row
        to.write(file, _row(record, record.dialogues[place.dialogue], place.image_id))


def _place(dialogue: Dialogue) -> tuple[str, int]:
    origin = dialogue.extra.get(PUBLISHED_ROW)
    if isinstance(origin, dict) and isinstance(origin.get("row"), int):
        return plain_path(origin.get("file"), f"extra.{PUBLISHED_ROW}.file"), origin["row"]
    return f"{dialogue.criterion}_nlf.jsonl", AFTER_ALL


def _unfit(record: Record, dialogue: Dialogue, turns: Sequence[Turn]) -> str:
    """Why a dialogue can be no row, or nothing."""
    if record.image is None:
        return "no image"
    if not turns:
        return "no answer"
    if PUBLISHED_ROW in dialogue.extra:
        return ""
    if all(feedback.rating is None and feedback.critique is None for turn in turns for feedback in turn.feedback):
        return "no feedback"
    return "" if dialogue.criterion else "no criterion"


def _row(record: Record, dialogue: Dialogue, image_id: str) -> dict[str, object]:
    complete = dialogue.model_copy(update={"turns": answered(dialogue)})
    return row_of(image_id, complete, caption_of(record, dialogue))


def _count(to: Writing, dialogue: Dialogue, turns: Sequence[Turn]) -> None:
    """What of a dialogue the format has no field for."""
    to.no_place["questions without answer at the end"] += len(dialogue.turns) > len(turns)
    to.no_place["references"] += dialogue.reference is not None
    for number, turn in enumerate(turns):
        judgement = feedback_of(turn, dialogue.criterion)
        to.no_place["further feedback on an answer"] += max(len(turn.feedback) - 1, 0)
        to.no_place["marked spans of an answer"] += sum(len(one.spans) for one in turn.feedback)
        following = dialogue.turns[number + 1].user if number + 1 < len(turns) else None
        if judgement is not None and judgement.refinement is not None and judgement.refinement != following:
            to.no_place["refinements that are not the next user's text"] += 1
