"""Which of many cards a page shows, and in which order: chosen by buttons, boxes and links, by CSS alone (`:has`).

No script: a browser without `:has` shows all of them. Ids and classes are made of numbers, never of anybody's text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dress.report.cards import Card


@dataclass(frozen=True)
class Facet:
    """What cases are filtered by; a case has the class `KEY-N` of the choice that fits it.

    Attributes:
        key: begins its ids and classes: small letters.
        name: stands above the choices.
        choices: their names.
        several: boxes, all of them ticked at first; else one of them, or all.
        by_view: the answer differs from view to view; the classes are `vK-KEY-N`.
    """

    key: str
    name: str
    choices: Sequence[str]
    several: bool = False
    by_view: bool = False


@dataclass(frozen=True)
class Link:
    """What the address `#only-N` shows: the cases of that class, as a view has them; `words` say which they are."""

    view: int
    words: str


@dataclass(frozen=True)
class Case:
    """A card that can be filtered: its classes, and its place in the order of each view."""

    card: Card
    classes: frozenset[str]
    places: Sequence[int]


@dataclass(frozen=True)
class Cases:
    """Cards with what they are filtered by; a page has one set of them.

    Attributes:
        cases: in the order of the first view.
        views: names of what they are looked at by, as `sft/none`; one at a time is chosen, the first at first.
        legend: says what the views are.
        facets: all that are chosen must fit.
        links: what a figure of a table may point to.
    """

    cases: Sequence[Case]
    views: Sequence[str]
    legend: str
    facets: Sequence[Facet] = ()
    links: Sequence[Link] = ()

    def number(self, facet: Facet, choice: int) -> int:
        """How many cases have a choice, whatever else is chosen."""
        return sum(f"{facet.key}-{choice}" in case.classes for case in self.cases)


def target(link: int) -> str:
    """The address of a link on its page."""
    return f"#only-{link}"


def css(cases: Cases) -> str:
    """The rules that filter and order; nothing of them is anybody's text."""
    return "".join(f"{','.join(selectors)}{{{what}}}\n" for selectors, what in _rules(cases))


def _rules(cases: Cases) -> Iterator[tuple[list[str], str]]:
    hidden = "display:none"
    for view in range(len(cases.views)):
        # A link's view goes before the chosen one.
        mains = [
            f"main:has(#view-{view}:checked):not(:has(.only:target))",
            f"main:has(.only.v{view}:target)",
        ]
        yield [f"{main} .case" for main in mains], f"order:var(--v{view})"
        yield [f"{main} .of:not(.of-{view})" for main in mains], hidden
        yield [f"{main} .answer.from-{view}" for main in mains], "background:var(--tint)"
        for facet in (one for one in cases.facets if one.by_view):
            for choice in range(len(facet.choices)):
                ticked, other = _condition(facet, choice), _others(facet, f"v{view}-{facet.key}-{choice}")
                yield [f"{main}{ticked} .case{other}" for main in mains], hidden
    for facet in (one for one in cases.facets if not one.by_view):
        for choice in range(len(facet.choices)):
            yield [f"main{_condition(facet, choice)} .case{_others(facet, f'{facet.key}-{choice}')}"], hidden
    for number in range(len(cases.links)):
        yield [f"main:has({target(number)}:target) .case:not(.only-{number})"], hidden


def _condition(facet: Facet, choice: int) -> str:
    """A box that is not ticked hides its cases; a button that is chosen hides the others."""
    return f":has(#{facet.key}-{choice}:not(:checked))" if facet.several else f":has(#{facet.key}-{choice}:checked)"


def _others(facet: Facet, name: str) -> str:
    return f".{name}" if facet.several else f":not(.{name})"
