"""The page of an inspection: tables, charts, and records to look at. It opens offline."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from dress.evaluation.metrics import mean
from dress.inspection.data_set import Item
from dress.inspection.inspecting import Inspection
from dress.inspection.tables import tables
from dress.record import TOP_RATING, Dialogue, Turn
from dress.report import charts
from dress.report.page import badge, header, html_table, picture, section, side_by_side, write_page

OPEN_DIALOGUES = 2
"""Dialogues of a record that are shown at once; the others unfold."""
BARS = 14
NOTHING_HERE = "This set has nothing to show here."
COLOURS = {"helpfulness": "phase-critique", "honesty": "phase-refinement", "harmlessness": "phase-rating"}


def write_inspection(file: Path, found: Inspection) -> None:
    """Write the page; the same findings give the same bytes."""
    total = sum(counts.records for counts in found.counts.values())
    facts = {
        "records": f"{total:,}",
        "dialogues": f"{sum(counts.dialogues for counts in found.counts.values()):,}",
        "splits": ", ".join(split or "all" for split in found.counts),
    }
    made = {table.title: table for table in tables(found)}
    drawn = [*_ratings(found), *_changes(found), *_lengths(found)]
    parts = [header("DRESS inspection", found.data.path, _lead(found), [], facts)]
    parts += [section(t.title, html_table(t.head, t.rows), escape(t.words), NOTHING_HERE) for t in made.values()]
    parts.append(section("Charts", side_by_side(drawn), "The same figures, drawn.", NOTHING_HERE))
    words = f"The {len(found.samples)} records whose keys have the smallest hashes: a sample that nobody chose."
    parts.append(section("Records to look at", "".join(map(_card, found.samples)), words, NOTHING_HERE))
    write_page(file, f"{found.data.path} – DRESS inspection", parts)


def _lead(found: Inspection) -> str:
    if found.leakage is None:
        return "What this set holds, and what is wrong with it."
    leaked, total = found.leakage.leaked.dialogues, found.leakage.all.dialogues
    return f"What this set holds. {leaked:,} of {total:,} dialogues stand in the other set too."


def _ratings(found: Inspection) -> Iterator[str]:
    for split, counts in found.counts.items():
        rated = {
            criterion: turns
            for criterion, turns in counts.table().items()
            if any(sum(numbers[:TOP_RATING]) for numbers in turns.values())
        }
        if rated:
            yield charts.rating_bars(" · ".join(filter(None, ("Ratings", split))), rated, "answers")


def _changes(found: Inspection) -> Iterator[str]:
    for split, counts in found.counts.items():
        for criterion, turns in sorted(counts.changes.items()):
            pairs = turns.get(0, Counter())
            if pairs:
                points = [_point(turn, Counter([pair[turn] for pair in pairs.elements()])) for turn in (0, 1)]
                line = charts.Series(criterion, COLOURS.get(criterion, "ink"), points)
                title = " · ".join(filter(None, ("Before and after advice", split, criterion)))
                yield charts.ratings_by_turn(title, [line])


def _point(turn: int, ratings: Counter[int]) -> charts.Point:
    figure = mean(list(ratings.elements()))
    return charts.Point(turn, float(figure["value"] or 0), figure["low"], figure["high"], ratings.total())


def _lengths(found: Inspection) -> Iterator[str]:
    for kind, numbers in found.lengths.by_kind.items() if found.lengths else ():
        if numbers:
            yield charts.histogram(f"Tokens: {kind}", _bars(numbers), "tokens")


def _bars(numbers: Counter[int]) -> list[tuple[str, int]]:
    """Equal steps up to the longest, at most `BARS`."""
    step = max(1, math.ceil((max(numbers) + 1) / BARS))
    bars = [0] * (max(numbers) // step + 1)
    for length, count in numbers.items():
        bars[length // step] += count
    return [(str(number * step), count) for number, count in enumerate(bars)]


# --- records ---------------------------------------------------------------------------------------


def _card(item: Item) -> str:
    record = item.record
    shown = [_dialogue(dialogue) for dialogue in record.dialogues]
    rest = shown[OPEN_DIALOGUES:]
    told = f"{len(rest)} more dialogue{'s' if len(rest) > 1 else ''}"
    more = f"<details><summary>{told}</summary>{''.join(rest)}</details>" if rest else ""
    captions = "".join(f'<p class="kind">{escape(caption)}</p>' for caption in record.annotation.captions)
    where = " · ".join(filter(None, (item.split, record.key, record.source)))
    seen = picture(record, item.image) if record.image is None or item.image is not None else _named(record.image.id)
    return (
        f'<article><div>{seen}<p class="key">{escape(where)}</p></div>'
        f"<div>{captions}{''.join(shown[:OPEN_DIALOGUES])}{more}</div></article>"
    )


def _named(image: str) -> str:
    return f'<p class="none">picture not here: {escape(image)}</p>'


def _dialogue(dialogue: Dialogue) -> str:
    known = dialogue.reference
    reference = f'<div class="feedback"><h4>Reference</h4><p>{escape(known)}</p></div>' if known else ""
    return (
        f'<p class="kind dialogue">{escape(dialogue.criterion or "no criterion")}</p>'
        f"{''.join(_turn(number, turn) for number, turn in enumerate(dialogue.turns))}"
        f"{reference}"
    )


def _turn(number: int, turn: Turn) -> str:
    asked = f"<h3>{escape(turn.user)}</h3>" if number == 0 else f'<p class="asked">{escape(turn.user)}</p>'
    if turn.assistant is None:
        return asked
    ratings = "".join(badge(f.rating) for f in turn.feedback) or badge(None)
    text = escape(turn.assistant) if turn.assistant.strip() else "<em>(empty answer)</em>"
    return f'{asked}<div class="answer"><h4>Answer {number} {ratings}</h4><p>{text}</p></div>{"".join(_said(turn))}'


def _said(turn: Turn) -> Iterator[str]:
    several = len(turn.feedback) > 1
    for feedback in turn.feedback:
        who: Sequence[str] = [t for t in (feedback.criterion if several else None, feedback.annotator) if t]
        for title, text in (("Critique", feedback.critique), ("Refinement", feedback.refinement)):
            if text:
                by = f" · {escape(' · '.join(who))}" if who else ""
                yield f'<div class="feedback"><h4>{title}{by}</h4><p>{escape(text)}</p></div>'
