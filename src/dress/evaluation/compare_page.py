"""The page of two runs side by side: figures and their differences, what changed, and the answers themselves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dress.data.shards import Sample
from dress.evaluation.cases import CHANGES, RATINGS, Pictures, ratings, shown_of
from dress.evaluation.comparison import Change, changed, compared, first_answers, worse
from dress.evaluation.failures import chosen
from dress.evaluation.outcomes import Outcome
from dress.evaluation.pairs import Pairing
from dress.report.cards import Answer, Card, Comment, Conversation, Exchange
from dress.report.charts import Chart, Point, Series, ratings_by_turn
from dress.report.facets import Case, Cases, Facet, Link, target
from dress.report.figures import CONDITIONS, Quantity, quantities
from dress.report.page import Page, Section, write_page
from dress.report.tables import NOTHING, Cell, Head, Row, Table

Json = dict[str, Any]
Address = tuple[str, str, Any]
"""Of questions: the cell, `figure` or `change`, and (key, turn) or the change."""
Links = Mapping[Address, str]
Find = Callable[[set[str]], tuple[Mapping[str, Sample], list[str]]]
EMPTY = "There is nothing to show here."


@dataclass(frozen=True)
class Side:
    """What a page calls a run, and where it lies."""

    letter: str
    name: str
    place: str

    @property
    def title(self) -> str:
        """`A: dress_full`."""
        return f"{self.letter}: {self.name}"


def figures_table(cell: str, result: Json, links: Links) -> Table:
    """The figures of both runs under one cell and their difference, over the questions of both.

    Args:
        cell: of the first run.
        result: of this cell, see `comparison`.
        links: where what got worse stands on the page.
    """
    listed = [q for q in quantities({CONDITIONS: {"a": result["a"], "b": result["b"]}}) if q.group != "image"]
    rows = []
    for quantity in listed:
        figure = quantity.figure(result["difference"])
        link = links.get((cell, "figure", (quantity.key, quantity.turn)), "")
        sides = [quantity.cell(result[side]) for side in ("a", "b")]
        rows.append(Row(quantity.head, [*sides, _difference(quantity, figure, link)]))
    columns = [Head("A", weight="base"), Head("B", weight="main"), Head("B − A")]
    return Table("figure", columns, rows, title_of(cell, result))


def title_of(cell: str, result: Json) -> str:
    """The cell of both runs in words."""
    second = result["second"]
    return cell if second == cell else f"{cell} and {second}"


def _difference(quantity: Quantity, figure: Mapping[str, Any], link: str) -> Cell:
    if figure.get("value") is None:
        return Cell(NOTHING)

    def signed(value: float | None) -> str:
        return NOTHING if value is None else f"{'+' if value > 0 else ''}{quantity.format(value, unit=False)}"

    return Cell(signed(figure["value"]), f"{signed(figure['low'])} to {signed(figure['high'])}", link=link)


def changes_table(cell: str, result: Json, links: Links) -> Table:
    """The ratings of first answers: the first run's down, the second's across."""
    counts = result["changes"]["table"]
    unrated = any(counts[-1]) or any(row[-1] for row in counts)
    kept: list[tuple[int, int | None]] = [(n, n + 1) for n in range(len(counts) - 1)]
    kept += [(len(counts) - 1, None)] if unrated else []
    rows = [
        Row(
            Head(f"A {RATINGS[n]}"),
            [Cell(f"{counts[n][m]:,}", link=links.get((cell, "change", (a, b)), "")) for m, b in kept],
        )
        for n, a in kept
    ]
    return Table("first answers", [Head(f"B {RATINGS[m]}") for m, _ in kept], rows, title_of(cell, result))


def lead(cell: str, result: Json, sides: tuple[Side, Side]) -> str:
    """The result in one plain sentence."""
    found = result["changes"]
    return (
        f"Of {result['n']:,} questions to {title_of(cell, result)}, {sides[1].name} (B) answers {found['better']:,} "
        f"better than {sides[0].name} (A), {found['worse']:,} worse and {found['equal']:,} as well, "
        f"{found['words_only']:,} of these in other words."
    )


def write_comparison(
    file: Path, result: Json, pairing: Pairing, sides: tuple[Side, Side], find: Find, most: int
) -> None:
    """Write the page; the same inputs give the same bytes.

    Args:
        file: to be written.
        result: what compare.json holds.
        pairing: the outcomes that it was made of.
        sides: what the runs are called.
        find: the records of some keys with their images, as far as they are here, and what to say of the others.
        most: questions that are shown.
    """
    cells = result["cells"]
    side_by_side = _SideBySide(pairing, sides, result)
    lists, listed = side_by_side.chosen(most)
    samples, missing = find(side_by_side.keys(listed))
    pictures = Pictures(samples)
    cases = side_by_side.cases(lists, listed, pictures)
    links = {address: target(number) for number, address in enumerate(lists)}
    order = [result["headline"], *(cell for cell in cells if cell != result["headline"])]
    answers = (
        f"{len(listed):,} questions: of each change, and of each figure that got worse, some (failures={most}). "
        "What lost most comes first. From the second turn on each run's user says what that run's judge advised."
    )
    words = (
        "Over the questions of both, B − A with paired bootstrap intervals of 95 %. Where there is none, each run's "
        "figure is about answers of its own choice. A difference with a line below it leads to what got worse."
    )
    sections = [
        Section("Figures", words, EMPTY, tables=[figures_table(cell, cells[cell], links) for cell in order]),
        Section("Interaction", "Each run's later questions are what its own judge advised.", EMPTY,
                charts=[chart for cell in order if (chart := _chart(cell, cells[cell], sides))]),
        Section("Changes", "Ratings of first answers. A number leads to its questions.", EMPTY,
                tables=[changes_table(cell, cells[cell], links) for cell in order]),
        Section("Answers side by side", answers + pictures.words, EMPTY, cases=cases, name="answers"),
    ]  # fmt: skip
    name = f"{sides[0].name} and {sides[1].name}"
    facts = {side.letter: side.place for side in sides} | {"questions of both": f"{result['n']:,}"}
    head = lead(order[0], cells[order[0]], sides)
    write_page(
        file,
        Page(
            f"{name} – DRESS comparison", "DRESS comparison", name, head, sections, [*result["notes"], *missing], facts
        ),
    )


def _chart(cell: str, result: Json, sides: tuple[Side, Side]) -> Chart | None:
    lines = []
    for side, colour, key in zip(sides, ("first", "last"), ("a", "b"), strict=True):
        figures = enumerate(result[key]["interaction/mean_rating"])
        points = [
            Point(turn, one["value"], one["low"], one["high"], one["n"])
            for turn, one in figures
            if one["value"] is not None
        ]
        if points:
            lines.append(Series(side.title, colour, points))
    return ratings_by_turn(f"Mean rating over all answers, {title_of(cell, result)}", lines) if lines else None


class _SideBySide:
    """The answers of both runs as cases of a page; a view is a cell, the headline's first."""

    def __init__(self, pairing: Pairing, sides: tuple[Side, Side], result: Json) -> None:
        self._pairing, self._sides, headline = pairing, sides, result["headline"]
        self._views = [headline, *(cell for cell in pairing.cells if cell != headline)]
        listed = quantities({CONDITIONS: {cell: one["a"] for cell, one in result["cells"].items()}})
        self._names = {(quantity.key, quantity.turn): quantity.name for quantity in listed}
        self._pairs = {cell: first_answers(pairing.first[cell], pairing.second[cell]) for cell in self._views}

    def chosen(self, most: int) -> tuple[dict[Address, list[str]], list[str]]:
        """The questions of every change and of every figure that got worse, and those that are shown."""
        lists = self._lists()
        return lists, chosen(lists.values(), most)

    def keys(self, items: Sequence[str]) -> set[str]:
        """Of their records."""
        return {self._any(item).key for item in items}

    def cases(self, lists: Mapping[Address, Sequence[str]], listed: Sequence[str], pictures: Pictures) -> Cases:
        """The questions that are shown; the links are those of `lists`, in its order."""
        orders = [sorted(listed, key=lambda item: self._badness(view, item)) for view in self._views]
        tries = self._tries(set(listed))
        facets = self._facets(listed)
        numbers: dict[str, set[str]] = defaultdict(set)
        for number, items in enumerate(lists.values()):
            for item in items:
                numbers[item].add(f"only-{number}")
        links = [
            Link(self._views.index(address[0]), self._link_words(address, items, listed))
            for address, items in lists.items()
        ]
        cases = [
            Case(
                self._card(item, tries[item], pictures),
                frozenset(numbers[item] | self._classes(item, facets)),
                [order.index(item) for order in orders],
            )
            for item in orders[0]
        ]
        return Cases(cases, self._views, "Model / condition", facets, links)

    def _lists(self) -> dict[Address, list[str]]:
        """Questions by what they show: a change of ratings, or a figure that is worse by them."""
        lists: dict[Address, list[str]] = {}
        for cell in self._views:
            first, second = self._pairing.first[cell], self._pairing.second[cell]
            lists |= {(cell, "change", change): items for change, items in changed(self._pairs[cell]).items()}
            for place, measure in compared(first, second).items():
                if items := worse(measure, first, second):
                    lists[cell, "figure", place] = items
        return lists

    def _link_words(self, address: Address, items: Sequence[str], listed: Sequence[str]) -> str:
        cell, kind, what = address
        here, total = len(set(items) & set(listed)), len(items)
        about = _change_words(what) if kind == "change" else f"{self._names.get(what, what[0])}, worse in B"
        questions = f"{total:,} question{'s' if total > 1 else ''}"
        return f"{cell}, {about}: {questions}, {shown_of(here, total, 'a.jsonl and b.jsonl have')}."

    def _badness(self, view: str, item: str) -> tuple[float, float, str]:
        """What loses most comes first: by first answers, then by the sum over turns."""
        pair = self._pairs[view].get(item)
        if pair is None or pair[0].rating is None or pair[1].rating is None:
            return (9.0, 0.0, item)
        return (pair[1].rating - pair[0].rating, pair[1].rating, item)

    def _facets(self, items: Sequence[str]) -> list[Facet]:
        some = [self._any(item) for item in items]
        facets = [
            Facet("criterion", "Criterion", sorted({one.criterion or "no criterion" for one in some})),
            Facet("kind", "Request", sorted({one.kind for one in some})),
            Facet("change", "B beside A", CHANGES, by_view=True),
            ratings(
                "B's first answer", [pairs[i][1].rating for pairs in self._pairs.values() for i in items if i in pairs]
            ),
        ]
        return [facet for facet in facets if len(facet.choices) > 1]

    def _any(self, item: str) -> Outcome:
        return next(pairs[item][0] for pairs in self._pairs.values() if item in pairs)

    def _classes(self, item: str, facets: Sequence[Facet]) -> set[str]:
        one, classes = self._any(item), set[str]()
        fixed = {"criterion": one.criterion or "no criterion", "kind": one.kind}
        for facet in facets:
            if not facet.by_view:
                classes.add(f"{facet.key}-{facet.choices.index(fixed[facet.key])}")
        for number, view in enumerate(self._views):
            if item not in self._pairs[view]:
                continue
            a, b = (side.rating for side in self._pairs[view][item])
            classes.add(f"v{number}-rating-{len(RATINGS) - 1 if b is None else b - 1}")
            if a is not None and b is not None:
                classes.add(f"v{number}-change-{(b < a) - (b > a) + 1}")
        return classes

    def _tries(self, items: set[str]) -> dict[str, dict[tuple[str, int], list[Outcome]]]:
        """Answers by question, and by cell and run."""
        tries: dict[str, dict[tuple[str, int], list[Outcome]]] = defaultdict(lambda: defaultdict(list))
        for number, run in enumerate((self._pairing.first, self._pairing.second)):
            for cell, outcomes in run.items():
                for outcome in sorted(outcomes, key=lambda outcome: outcome.turn):
                    if outcome.item in items:
                        tries[outcome.item][cell, number].append(outcome)
        return tries

    def _card(self, item: str, tries: Mapping[tuple[str, int], Sequence[Outcome]], pictures: Pictures) -> Card:
        one = self._any(item)
        reference = [Answer("Reference", one.reference, [], weight="")] if one.reference else []
        kind = f"{one.kind} · {one.criterion or 'no criterion'}"
        pairs = [
            (self._conversation(number, 0, tries[view, 0]), self._conversation(number, 1, tries[view, 1]))
            for number, view in enumerate(self._views)
            if tries.get((view, 0))
        ]
        question = Conversation(kind, [Exchange(one.user or "", reference)])
        return Card(item, pictures.of(one.key), [question], pairs=pairs)

    def _conversation(self, view: int, run: int, tries: Sequence[Outcome]) -> Conversation:
        cell = self._views[view] if not run else self._pairing.cells[self._views[view]]
        exchanges = [
            Exchange(
                (one.user or "") if one.turn else "",
                [Answer(cell, one.answer or "", [one.rating], _critique(one), ("base", "main")[run])],
            )
            for one in tries
        ]
        return Conversation(self._sides[run].title, exchanges, view=view)


def _critique(outcome: Outcome) -> list[Comment]:
    """Of a first answer; what is said of later ones stands in the next question."""
    return [Comment("Critique", outcome.critique)] if outcome.critique and not outcome.turn else []


def _change_words(change: Change) -> str:
    a, b = ("not rated" if rating is None else f"rated {rating}" for rating in change)
    return f"A and B {a}, in other words" if a == b else f"A {a}, B {b}"
