"""The page of an inspection: tables, charts, and records to look at. It opens offline."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from dress.evaluation.statistics import mean
from dress.inspection.annotators import Annotators, Differing
from dress.inspection.data_set import Item
from dress.inspection.inspecting import Inspection
from dress.inspection.tables import tables
from dress.record import TOP_RATING, Dialogue, Turn
from dress.report.cards import Answer, Card, Comment, Conversation, Exchange, Picture, picture
from dress.report.charts import Chart, Point, Series, histogram, rating_bars, ratings_by_turn
from dress.report.page import Page, Section, write_page

OPEN_DIALOGUES = 2
"""Dialogues of a record that are shown at once; the others unfold."""
BARS = 14
"""Bars of a histogram, at most."""
EMPTY = "This set has nothing to show here."
COLOURS = {"helpfulness": "phase-critique", "honesty": "phase-refinement", "harmlessness": "phase-rating"}
"""Criterion to the colour of its line."""


def write_inspection(file: Path, inspection: Inspection) -> None:
    """Write the page; the same inspection gives the same bytes."""
    counts = inspection.counts
    facts = {
        "records": f"{sum(part.records for part in counts.values()):,}",
        "dialogues": f"{sum(part.dialogues for part in counts.values()):,}",
        "splits": ", ".join(split or "all" for split in counts),
    }
    charts = [*_ratings(inspection), *_changes(inspection), *_lengths(inspection)]
    words = f"The {len(inspection.samples)} records whose keys have the smallest hashes: a sample that nobody chose."
    sections = [
        *(Section(table.title, table.words, EMPTY, tables=[table]) for table in tables(inspection)),
        *_differing(inspection.annotators),
        Section("Charts", "The same figures, drawn.", EMPTY, charts=charts),
        Section("Records to look at", words, EMPTY, cards=[_card(item) for item in inspection.samples]),
    ]
    name = inspection.data.path
    title = f"{name} – DRESS inspection"
    write_page(file, Page(title, "DRESS inspection", name, _lead(inspection), sections, facts=facts))


def _lead(inspection: Inspection) -> str:
    if inspection.leakage is None:
        return "What this set holds, and what is wrong with it."
    leaked, total = inspection.leakage.leaked.dialogues, inspection.leakage.all.dialogues
    return f"What this set holds. {leaked:,} of {total:,} dialogues stand in the other set too."


def _ratings(inspection: Inspection) -> Iterator[Chart]:
    for split, counts in inspection.counts.items():
        rated = {
            criterion: turns
            for criterion, turns in counts.table().items()
            if any(sum(numbers[:TOP_RATING]) for numbers in turns.values())
        }
        if rated:
            yield rating_bars(" · ".join(filter(None, ("Ratings", split))), rated, "answers")


def _changes(inspection: Inspection) -> Iterator[Chart]:
    for split, counts in inspection.counts.items():
        for criterion, turns in sorted(counts.changes.items()):
            pairs = turns.get(0, Counter())
            if pairs:
                points = [_point(turn, Counter([pair[turn] for pair in pairs.elements()])) for turn in (0, 1)]
                line = Series(criterion, COLOURS.get(criterion, "ink"), points)
                title = " · ".join(filter(None, ("Before and after advice", split, criterion)))
                yield ratings_by_turn(title, [line])


def _point(turn: int, ratings: Counter[int]) -> Point:
    figure = mean(list(ratings.elements()))
    return Point(turn, float(figure["value"] or 0), figure["low"], figure["high"], ratings.total())


def _lengths(inspection: Inspection) -> Iterator[Chart]:
    for kind, numbers in inspection.lengths.by_kind.items() if inspection.lengths else ():
        if numbers:
            yield histogram(f"Tokens: {kind}", _bars(numbers), "tokens")


def _bars(numbers: Counter[int]) -> list[tuple[str, int]]:
    """Equal steps up to the longest, at most `BARS`."""
    step = max(1, math.ceil((max(numbers) + 1) / BARS))
    bars = [0] * (max(numbers) // step + 1)
    for length, count in numbers.items():
        bars[length // step] += count
    return [(str(number * step), count) for number, count in enumerate(bars)]


def _differing(annotators: Annotators) -> Iterator[Section]:
    """The answers that annotators differ on most, with what each of them said."""
    cards = [_differing_card(annotators, one) for one in annotators.differing]
    if cards:
        words = (
            f"The {len(cards)} whose ratings lie farthest apart; of those that are equally far those with the smallest "
            f"hashes, which nobody chose."
        )
        yield Section("Answers that annotators differ on", words, cards=cards)


def _differing_card(annotators: Annotators, one: Differing) -> Card:
    *before, last = one.dialogue.turns
    exchanges = [Exchange(turn.user, [Answer("Answer", turn.assistant or "", ())]) for turn in before]
    comments = []
    for label, feedback in annotators.words(one):
        rated = f"{label} · rated {feedback.rating} of {TOP_RATING}"
        comments.append(Comment(rated, feedback.critique or "(no critique)"))
        if feedback.refinement:
            comments.append(Comment(f"{label} · refinement", feedback.refinement))
    exchanges.append(Exchange(last.user, [Answer("Answer that was rated", last.assistant or "", (), comments)]))
    conversation = Conversation(one.criterion, exchanges)
    return Card(_title(one.item), _picture(one.item), [conversation], one.item.record.annotation.captions)


def _title(item: Item) -> str:
    return " · ".join(filter(None, (item.split, item.record.key, item.record.source)))


def _picture(item: Item) -> Picture | str:
    image = item.record.image
    return f"picture not here: {image.id}" if image and item.image is None else picture(item.record, item.image)


def _card(item: Item) -> Card:
    record = item.record
    conversations = [_conversation(dialogue) for dialogue in record.dialogues]
    return Card(
        _title(item),
        _picture(item),
        conversations[:OPEN_DIALOGUES],
        record.annotation.captions,
        conversations[OPEN_DIALOGUES:],
    )


def _conversation(dialogue: Dialogue) -> Conversation:
    exchanges = [Exchange(turn.user, _answers(number, turn)) for number, turn in enumerate(dialogue.turns)]
    reference = [Comment("Reference", dialogue.reference)] if dialogue.reference else []
    return Conversation(dialogue.criterion or "no criterion", exchanges, reference)


def _answers(number: int, turn: Turn) -> list[Answer]:
    if turn.assistant is None:
        return []
    ratings = [feedback.rating for feedback in turn.feedback] or [None]
    return [Answer(f"Answer {number}", turn.assistant, ratings, list(_comments(turn)))]


def _comments(turn: Turn) -> Iterator[Comment]:
    """What was said about an answer, with the criterion where there are several, and by whom."""
    for feedback in turn.feedback:
        criterion = feedback.criterion if len(turn.feedback) > 1 else None
        for title, text in (("Critique", feedback.critique), ("Refinement", feedback.refinement)):
            if text:
                yield Comment(" · ".join(filter(None, (title, criterion, feedback.annotator))), text)
