"""The answers of a run that fell short, as cases of its report: chosen, ordered and drawn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dress.base.seeding import seed_for
from dress.data.shards import Sample
from dress.evaluation.failures import Place, chosen, failing_items
from dress.evaluation.outcomes import Outcome
from dress.record import TOP_RATING
from dress.report.cards import Answer, Card, Comment, Conversation, Exchange, Picture, picture
from dress.report.facets import Case, Cases, Facet, Link, target
from dress.report.figures import Figures, cells, main_cells, quantities, weight

LARGEST, MOST_BYTES = 192, 1_200_000
"""Pixels of a case's picture, and characters of all of them; those beyond are left out."""
RATINGS = (*(f"rated {rating}" for rating in range(1, TOP_RATING + 1)), "not rated")
CHANGES = ("better", "equal", "worse")

Tries = Mapping[str, Sequence[Outcome]]
"""The answers to one question by cell, each by turn."""


@dataclass(frozen=True)
class Failures:
    """What the report shows of the answers that fell short.

    Attributes:
        cases: for its page.
        links: cell, key and turn of a figure to the address that shows what it is short of.
        words: how many there are, and which are shown.
    """

    cases: Cases
    links: Mapping[Place, str]
    words: str


def failures(metrics: Figures, outcomes: Sequence[Outcome], samples: Sequence[Sample], most: int) -> Failures:
    """The questions that some figure is short of, with the answers of every cell.

    Args:
        metrics: what metrics.json holds.
        outcomes: of all cells.
        samples: the evaluated records with image bytes.
        most: questions that are shown: of each figure of each cell its worst in turn.
    """
    by_cell = {cell: list[Outcome]() for cell in _views(metrics)}
    for outcome in outcomes:
        if (cell := f"{outcome.model}/{outcome.condition}") in by_cell:
            by_cell[cell].append(outcome)
    views = [cell for cell, members in by_cell.items() if members]
    items = failing_items({cell: by_cell[cell] for cell in views})
    names = {(q.key, q.turn): q.name for q in quantities(metrics)}
    items = {place: some for place, some in items.items() if place[1:] in names}
    listed = chosen(items.values(), most)
    tries = _tries(by_cell, set(listed))
    orders = [sorted(listed, key=lambda item: _badness(tries[item].get(view, ()), item)) for view in views]
    first = orders[0] if orders else []
    pictures = Pictures({record.key: (record, image) for record, image in samples})
    drawing = _Drawing(views, main_cells(metrics), pictures)
    facets = _facets(views, [tries[item] for item in first])
    links = [
        Link(views.index(cell), f"{cell}, {names[key, turn]}: {_counted(some, listed)}")
        for (cell, key, turn), some in items.items()
    ]
    numbers: dict[str, set[str]] = defaultdict(set)
    for number, some in enumerate(items.values()):
        for item in some:
            numbers[item].add(f"only-{number}")
    cases = [
        Case(
            drawing.card(tries[item]),
            frozenset(numbers[item] | _classes(tries[item], views, facets)),
            [order.index(item) for order in orders],
        )
        for item in first
    ]
    every = {item for some in items.values() for item in some}
    words = (
        f"{len(listed):,} of the {len(every):,} questions where some figure falls short: of each figure the worst in "
        "turn. They stand worst first, by the rating of the first answer and then over all turns of the model and "
        "condition that is chosen, whose whole dialogue is shown. A figure above leads to what it is short of."
    )
    words += pictures.words
    addresses = {place: target(number) for number, place in enumerate(items)}
    return Failures(Cases(cases, views, "Model / condition", facets, links), addresses, words)


def _views(metrics: Figures) -> list[str]:
    """The cells as the table has them, but the model that was trained last comes first."""
    main = main_cells(metrics)
    return list(dict.fromkeys([*main[-1:], *cells(metrics)]))


def _tries(by_cell: Mapping[str, Sequence[Outcome]], items: set[str]) -> dict[str, dict[str, list[Outcome]]]:
    tries: dict[str, dict[str, list[Outcome]]] = defaultdict(lambda: defaultdict(list))
    for cell, outcomes in by_cell.items():
        for outcome in sorted(outcomes, key=lambda outcome: outcome.turn):
            if outcome.item in items:
                tries[outcome.item][cell].append(outcome)
    return tries


def _badness(tries: Sequence[Outcome], item: str) -> tuple[float, float, int, str]:
    """Lower is worse: the first rating, the mean over all turns; what was not rated comes last."""
    ratings = [outcome.rating for outcome in tries if outcome.rating is not None]
    first = tries[0].rating if tries else None
    last = TOP_RATING + 1
    mean = sum(ratings) / len(ratings) if ratings else last
    return (last if first is None else first, mean, seed_for(item), item)


def _counted(items: Sequence[str], shown: Sequence[str]) -> str:
    here, total = len(set(items) & set(shown)), len(items)
    found = "1 question falls short" if total == 1 else f"{total:,} questions fall short"
    return f"{found}, {shown_of(here, total)}."


def shown_of(here: int, total: int, files: str = "outcomes.jsonl has") -> str:
    """How many of some questions stand on the page, and where the others are."""
    return "shown here" if here == total else f"{here:,} of them shown here ({files} all)"


def ratings(name: str, given: Iterable[int | None]) -> Facet:
    """The facet of a first answer's rating in a view; `not rated` is a choice where some are not."""
    return Facet("rating", name, RATINGS if None in given else RATINGS[:-1], several=True, by_view=True)


def _facets(views: Sequence[str], tries: Sequence[Tries]) -> list[Facet]:
    """What all of these questions can be told apart by."""
    criteria = sorted({_first(one).criterion or "no criterion" for one in tries})
    kinds = sorted({_first(one).kind for one in tries})
    facets = [
        Facet("criterion", "Criterion", criteria),
        Facet("kind", "Request", kinds),
        ratings("Its first answer", [some[0].rating for one in tries for some in one.values() if some]),
        Facet("change", f"Beside {views[1]}" if len(views) > 1 else "", CHANGES, by_view=True),
    ]
    return [facet for facet in facets if len(facet.choices) > 1 and facet.name]


def _classes(tries: Tries, views: Sequence[str], facets: Sequence[Facet]) -> set[str]:
    """The choices of every facet that fit a question."""
    first, classes = _first(tries), set[str]()
    fixed = {"criterion": first.criterion or "no criterion", "kind": first.kind}
    beside = _rating(tries, views[1]) if len(views) > 1 else None
    for facet in facets:
        if not facet.by_view:
            classes.add(f"{facet.key}-{facet.choices.index(fixed[facet.key])}")
            continue
        for number, view in enumerate(views):
            rating = _rating(tries, view)
            if facet.key == "rating" and view in tries:
                classes.add(f"v{number}-rating-{len(RATINGS) - 1 if rating is None else rating - 1}")
            elif facet.key == "change" and rating is not None and beside is not None:
                classes.add(f"v{number}-change-{(rating < beside) - (rating > beside) + 1}")
    return classes


def _first(tries: Tries) -> Outcome:
    return next(some[0] for some in tries.values() if some)


def _rating(tries: Tries, cell: str) -> int | None:
    """Of the first answer; None where there is none, or nobody rated it."""
    some = tries.get(cell)
    return some[0].rating if some else None


class Pictures:
    """Pictures of cases, as many as a page has room for.

    Args:
        samples: records with image bytes, by key.
    """

    def __init__(self, samples: Mapping[str, Sample]) -> None:
        self._samples, self._made = samples, dict[str, Picture | str]()
        self._size = self._left_out = 0

    def of(self, key: str) -> Picture | str:
        """The picture of a record, or why there is none."""
        if key not in self._samples:
            return "picture not here"
        if key not in self._made:
            self._made[key] = picture(*self._samples[key], LARGEST)
        made = self._made[key]
        size = 0 if isinstance(made, str) else len(made.source)
        if self._size + size > MOST_BYTES:
            self._left_out += 1
            return "picture left out"
        self._size += size
        return made

    @property
    def words(self) -> str:
        """How many were left out, so far."""
        left = f" {self._left_out:,} pictures are left out: the others are as large as a page may be."
        return left if self._left_out else ""


class _Drawing:
    """Cards of questions.

    Args:
        views: the cells.
        main: the cell of each model that it is about.
        pictures: of the records.
    """

    def __init__(self, views: Sequence[str], main: Sequence[str], pictures: Pictures) -> None:
        self._views, self._main, self._pictures = views, main, pictures

    def card(self, tries: Tries) -> Card:
        """The first answers of all cells side by side, and the rest of each cell's dialogue in its view."""
        first = _first(tries)
        views = [(number, tries[view]) for number, view in enumerate(self._views) if tries.get(view)]
        answers = [self._answer(number, some[0]) for number, some in views]
        if first.reference:
            answers.append(Answer("Reference", first.reference, [], weight=""))
        kind = f"{first.kind} · {first.criterion or 'no criterion'}"
        later = [
            Conversation(
                f"{self._views[number]} goes on",
                [Exchange(one.user or "", [self._answer(number, one)]) for one in some[1:]],
                view=number,
            )
            for number, some in views
            if some[1:]
        ]
        question = Conversation(kind, [Exchange(first.user or "", answers)])
        return Card(first.item, self._pictures.of(first.key), [question, *later])

    def _answer(self, view: int, outcome: Outcome) -> Answer:
        # A refinement is the next question.
        comments = [Comment("Critique", outcome.critique, view)] if outcome.critique else []
        cell = self._views[view]
        return Answer(cell, outcome.answer or "", [outcome.rating], comments, weight(cell, self._main), view)
