"""The figures of two runs over the same questions, what changed from one to the other, and where it got worse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from dress.base.seeding import seed_for
from dress.evaluation import references
from dress.evaluation.measures import Measure
from dress.evaluation.outcomes import Outcome
from dress.evaluation.pairs import Pairing
from dress.evaluation.run_measures import BY_TURN, MEASURES, figures, rating_at
from dress.record import TOP_RATING

Rating = int | None
Change = tuple[Rating, Rating]
"""The rating of a first answer in the first run, and in the second."""


def comparison(pairing: Pairing) -> dict[str, Any]:
    """All figures, each over the questions of both runs.

    Returns:
        `cells`: by cell of the first run `second` (the cell there), `n` (questions), the figures of `a` and `b`
        (see `run_measures.figures`), `difference` (b - a: value, n, low, high; of what is about each run's own answers
        there is none), and `changes` (see `changes`); `n`, `only_a`, `only_b`, `differing`.
    """
    return {
        "n": len(pairing.items), "only_a": pairing.only_first, "only_b": pairing.only_second,
        "differing": list(pairing.differing),
        "cells": {cell: _cell(pairing, cell) for cell in pairing.cells},
    }  # fmt: skip


def _cell(pairing: Pairing, cell: str) -> dict[str, Any]:
    first, second = pairing.first[cell], pairing.second[cell]
    difference: dict[str, Any] = {BY_TURN: []}
    for (key, turn), measure in compared(first, second).items():
        figure = measure.difference(second, first)
        if turn is None:
            difference[key] = figure
        else:
            difference[BY_TURN].append(figure)
    items = len({one.item for one in first})
    return {
        "second": pairing.cells[cell], "n": items, "a": figures(first), "b": figures(second),
        "difference": difference, "changes": changes(first, second),
    }  # fmt: skip


def compared(first: Sequence[Outcome], second: Sequence[Outcome]) -> dict[tuple[str, int | None], Measure]:
    """The measures that both runs have over the same samples, by key and turn.

    What only answers of a certain rating are counted for (unsolved, regressed) is about other samples in each run.
    """
    turns = sorted({one.turn for one in first if one.rating is not None})
    known = references.measures(first)
    return {
        **{(measure.key, None): measure for measure in MEASURES},
        **{(key, None): measure for key, measure in known.items() if key in references.measures(second)},
        **{(BY_TURN, turn): rating_at(turn) for turn in turns},
    }


def changes(first: Sequence[Outcome], second: Sequence[Outcome]) -> dict[str, Any]:
    """What became of first answers.

    Returns:
        `better`, `equal`, `worse` (questions that both rated), `words_only` (of the equal ones, those whose answers
        differ), `table` and `by_criterion`: [5, 5] counts, the first run's ratings 1-4 and not rated down, the
        second's across.
    """
    pairs = first_answers(first, second)
    signs = Counter((b > a) - (b < a) for a, b in map(change, pairs.values()) if a is not None and b is not None)
    words = sum(_equal(a, b) and a.answer != b.answer for a, b in pairs.values())
    criteria = sorted({a.criterion for a, _ in pairs.values() if a.criterion})
    by_criterion = {c: _table([change(p) for p in pairs.values() if p[0].criterion == c]) for c in criteria}
    return {
        "better": signs[1], "equal": signs[0], "worse": signs[-1], "words_only": words,
        "table": _table([change(p) for p in pairs.values()]), "by_criterion": by_criterion,
    }  # fmt: skip


def first_answers(first: Sequence[Outcome], second: Sequence[Outcome]) -> dict[str, tuple[Outcome, Outcome]]:
    """The first answers of both by question."""
    theirs = {one.item: one for one in second if not one.turn}
    return {one.item: (one, theirs[one.item]) for one in first if not one.turn and one.item in theirs}


def change(pair: tuple[Outcome, Outcome]) -> Change:
    """From which rating to which."""
    return pair[0].rating, pair[1].rating


def changed(pairs: Mapping[str, tuple[Outcome, Outcome]]) -> dict[Change, list[str]]:
    """Questions by change, the worst change first; of equal ratings only those whose answers differ."""
    by_change: dict[Change, list[str]] = {}
    for item in sorted(pairs, key=lambda item: (seed_for(item), item)):
        a, b = pairs[item]
        if not (_equal(a, b) and a.answer == b.answer):
            by_change.setdefault(change(pairs[item]), []).append(item)
    return dict(sorted(by_change.items(), key=lambda pair: _order(pair[0])))


def worse(measure: Measure, first: Sequence[Outcome], second: Sequence[Outcome]) -> list[str]:
    """The questions by which the second run's figure is worse than the first's, the worst first."""
    ours, theirs = measure.parts(first), measure.parts(second)
    sign = -1 if measure.up is False else 1
    losses = {
        item: sign * (ours[item].top / ours[item].bottom - theirs[item].top / theirs[item].bottom)
        for item in ours.keys() & theirs.keys()
        if ours[item].bottom and theirs[item].bottom
    }
    return sorted((i for i, loss in losses.items() if loss > 0), key=lambda i: (-losses[i], seed_for(i), i))


def _equal(a: Outcome, b: Outcome) -> bool:
    return a.rating == b.rating


def _order(change: Change) -> tuple[int, int, int]:
    a, b = change
    if a is None or b is None:
        return (1, 0 if b is None else 1, 0)
    return (0, b - a, b)


def _table(pairs: Sequence[Change]) -> list[list[int]]:
    counts = Counter(pairs)
    ratings: list[Rating] = [*range(1, TOP_RATING + 1), None]
    return [[counts[a, b] for b in ratings] for a in ratings]
