"""Which answers a figure is worse for, and which of them a page shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest

from dress.base.seeding import seed_for
from dress.evaluation.measures import Measure
from dress.evaluation.outcomes import Outcome, counted
from dress.evaluation.run_measures import measures

Place = tuple[str, str, int | None]
"""Of a figure: its cell, its key and, of those by turn, the turn."""


def failing(measure: Measure, outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The outcomes that a figure is worse for, the worst first; ties by a hash of the item.

    Where more is better, those below the highest value that there can be (of a mean without a known one: that there
    is); where less is better, those above 0. A measure of which neither is better has none.
    """
    pairs = [(pair, outcome) for outcome in outcomes if (pair := measure.of(outcome)) is not None]
    if measure.up is None:
        return []
    best = measure.best
    if best is None:
        values = [top / bottom for (top, bottom), _ in pairs if bottom]
        best = max(values, default=0.0) if measure.kind == "mean" else 1.0
    losses = [(best * bottom - top if measure.up else top, outcome) for (top, bottom), outcome in pairs]
    worse = [(loss, outcome) for loss, outcome in losses if loss > 0]
    return [
        o for _, o in sorted(worse, key=lambda pair: (-pair[0], seed_for(pair[1].item), pair[1].item, pair[1].turn))
    ]


def failing_items(cells: Mapping[str, Sequence[Outcome]]) -> dict[Place, list[str]]:
    """The items of each cell's figures that fall short, the worst first; figures that none is short of are left out.

    Args:
        cells: `model/condition` to its outcomes.
    """
    found: dict[Place, list[str]] = {}
    for cell, outcomes in cells.items():
        good = counted(outcomes)
        for (key, turn), measure in measures(good).items():
            items = list(dict.fromkeys(outcome.item for outcome in failing(measure, good)))
            if items:
                found[cell, key, turn] = items
    return found


def chosen(lists: Iterable[Sequence[str]], most: int) -> list[str]:
    """The items that are shown, each once: the first of each list, then the second of each, until `most`."""
    rounds = zip_longest(*lists)
    return list(dict.fromkeys(item for one in rounds for item in one if item is not None))[:most]
