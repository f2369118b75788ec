"""The page of a suite: its figures, and the questions that they are short of, the worst first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dress.evaluation.cases import Pictures, shown_of
from dress.evaluation.failures import chosen, failing
from dress.evaluation.measures import Measure
from dress.evaluation.outcomes import Outcome, counted
from dress.evaluation.questions import Images
from dress.record import ImageRef, Record
from dress.report.cards import Answer, Card, Comment, Conversation, Exchange
from dress.report.facets import Case, Cases, Facet, Link, target
from dress.report.page import Page, Section, write_page
from dress.report.tables import Table

PAGE = "suite.html"
WORDS = (
    "Of each figure the worst in turn, beside them what was not counted. A figure above that has a line below it leads "
    "to the questions that it is short of."
)

FindPictures = Callable[[Collection[str]], Mapping[str, bytes]]
"""The image files of records, by their keys; those that are not there are left out."""


def image_files(folder: str | None, keys: Collection[str]) -> dict[str, bytes]:
    """Of a folder; see `FindPictures`."""
    images = Images(folder)
    files = {key: images.get(key) for key in keys}
    return {key: file.read_bytes() for key, file in files.items() if file is not None}


class Shortfall:
    """The answers that a suite's figures are short of, and those that were not counted.

    Args:
        measures: of the suite.
        outcomes: all.
        baseline: of the evaluation that it is compared with.
        most: questions that are shown.

    Attributes:
        lists: what each list is of (key of a measure, or why something was not counted) to its items, the worst first.
        shown: the items that the page has: of each list the first in turn.
    """

    def __init__(
        self, measures: Sequence[Measure], outcomes: Sequence[Outcome], baseline: Sequence[Outcome], most: int
    ) -> None:
        self.measures, self.outcomes, self.baseline = measures, outcomes, baseline
        good, lists = counted(outcomes), defaultdict[str, dict[str, None]](dict)
        for measure in measures:
            lists[measure.key] = dict.fromkeys(one.item for one in failing(measure, good))
        for outcome in outcomes:
            if outcome.failed is not None:
                lists[outcome.failed][outcome.item] = None
        self.lists = {key: list(items) for key, items in lists.items() if items}
        self.shown = chosen(self.lists.values(), most)

    def link(self, key: str) -> str:
        """The address of a list on the page; empty where there is none."""
        return target(list(self.lists).index(key)) if key in self.lists else ""


def write_suite_page(
    file: Path, name: str, tables: Sequence[Table], facts: Mapping[str, Any], short: Shortfall, pictures: FindPictures
) -> None:
    """Write the page of a suite's output; the same inputs give the same bytes.

    Args:
        file: the page.
        name: of the suite.
        tables: its figures.
        facts: who answered, who judged.
        short: the answers that are shown.
        pictures: finds the pictures of what is shown.
    """
    by_item = _by_item(short.outcomes, short.shown)
    categories = sorted({some[0].category or "no category" for some in by_item.values()})
    facets = [Facet("category", "Category", categories)] if len(categories) > 1 else []
    names = {measure.key: measure.name for measure in short.measures}
    links = [
        Link(0, f"{names.get(key, f'not counted, {key}')}: {_counted(items, short.shown)}")
        for key, items in short.lists.items()
    ]
    drawing = _Drawing(short.measures, _by_item(short.baseline, short.shown), _pictures(by_item, pictures))
    cases, in_file = [], list(dict.fromkeys(one.item for one in short.outcomes if one.item in by_item))
    for place, item in enumerate(short.shown):
        some = by_item[item]
        classes = {f"only-{number}" for number, items in enumerate(short.lists.values()) if item in items}
        classes.add(f"category-{categories.index(some[0].category or 'no category')}")
        cases.append(Case(drawing.card(some), frozenset(classes), [place, in_file.index(item)]))
    every = {item for items in short.lists.values() for item in items}
    words = f"{len(short.shown):,} of {len(every):,} questions. {WORDS}{drawing.pictures.words}"
    listed = Cases(cases, ["the worst first", "as asked"], "Order", facets, links)
    sections = [
        Section("Figures", "Value, 95 % interval and n.", tables=tables),
        Section("Where it falls short", words, "No answer falls short.", cases=listed, name="failures"),
    ]
    write_page(file, Page(f"{name} – DRESS evaluation", "DRESS evaluation", name, "", sections, facts=facts))


def _by_item(outcomes: Iterable[Outcome], items: Sequence[str]) -> dict[str, list[Outcome]]:
    """The outcomes of these items, by run and turn."""
    by_item: dict[str, list[Outcome]] = {item: [] for item in items}
    for outcome in outcomes:
        if outcome.item in by_item:
            by_item[outcome.item].append(outcome)
    return {item: sorted(some, key=lambda one: (one.run, one.turn)) for item, some in by_item.items() if some}


def _pictures(by_item: Mapping[str, Sequence[Outcome]], find: FindPictures) -> Pictures:
    keys = {some[0].key for some in by_item.values()}
    files = find(keys) if keys else {}
    return Pictures({key: (Record(key="image", image=ImageRef(id=key)), data) for key, data in files.items()})


def _counted(items: Sequence[str], shown: Sequence[str]) -> str:
    number = f"{len(items):,} question{'' if len(items) == 1 else 's'}"
    return f"{number}, {shown_of(len(set(items) & set(shown)), len(items))}."


class _Drawing:
    """Cards of questions.

    Args:
        measures: that count them.
        baseline: the outcomes of another evaluation, by item.
        pictures: of the questions.
    """

    def __init__(
        self, measures: Sequence[Measure], baseline: Mapping[str, Sequence[Outcome]], pictures: Pictures
    ) -> None:
        self.measures, self.baseline, self.pictures = measures, baseline, pictures

    def card(self, outcomes: Sequence[Outcome]) -> Card:
        """All answers to a question, what each counts as, the other evaluation's, and what is known to be right."""
        first = outcomes[0]
        others = {(one.run, one.turn): one for one in self.baseline.get(first.item, ())}
        exchanges: list[Exchange] = []
        for one in outcomes:
            answers = [self._answer(one, one.responder or "answer", "main")]
            if (other := others.get((one.run, one.turn))) is not None:
                answers.append(self._answer(other, "baseline", "base"))
            if one is first and one.reference:
                answers.append(Answer("Reference", one.reference, [], weight=""))
            asked = "" if exchanges and one.turn == 0 else one.user or ""
            exchanges.append(Exchange(asked, answers))
        title = " · ".join(filter(None, [first.category, first.where]))
        picture = self.pictures.of(first.key)
        return Card(first.item, picture, [Conversation(title, exchanges)])

    def _answer(self, outcome: Outcome, title: str, weight: str) -> Answer:
        if outcome.failed is not None:
            comments = [] if outcome.answer is None else [Comment("Not counted", outcome.failed)]
            return Answer(title, outcome.answer or f"({outcome.failed})", [], comments, weight)
        figures = [(measure, pair) for measure in self.measures if (pair := measure.of(outcome)) is not None]
        counts = "; ".join(f"{measure.name}: {_value(*pair)}" for measure, pair in figures)
        texts = [("Judged", outcome.critique or outcome.facts.get("reason")), ("Counts as", counts)]
        comments = [Comment(title, str(words)) for title, words in texts if words]
        return Answer(title, outcome.answer or "", [] if outcome.rating is None else [outcome.rating], comments, weight)


def _value(top: float, bottom: float) -> str:
    """What one answer adds to a figure: `1`, `0.33`, `2 of 3`."""
    return f"{top:.3g}" if bottom == 1 else f"{top:g} of {bottom:g}"
