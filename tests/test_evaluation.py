"""Figures: counted by hand on a handful of outcomes."""

from __future__ import annotations

import pytest

from dress.evaluation.outcomes import Outcome, load_outcomes, save_outcomes
from dress.evaluation.run_measures import figures
from dress.evaluation.statistics import mean, ratio, share
from dress.evaluation.suites.run import metrics


def outcome(item: str, kind: str, turn: int, rating: int | None, **facts) -> Outcome:
    return Outcome(
        model="sft", condition="none", item=item, key=item.split("/")[0], criterion="x", kind=kind, turn=turn,
        user="u", answer="a", rating=rating, critique=None, refinement=None, facts=facts,
    )  # fmt: skip


OUTCOMES = [
    outcome("a/0", "question", 0, 4, correct=True),
    outcome("a/0", "question", 1, 3, correct=True),
    outcome("b/1", "question", 0, 2, correct=False),
    outcome("b/1", "question", 1, 4, correct=True),
    outcome("c/2", "description", 0, 2, mentions=3, invented=1, present=4, named=2),
    outcome("c/2", "description", 1, 4, mentions=9, invented=0, present=9, named=9),
    outcome("d/3", "description", 0, 4, mentions=1, invented=0, present=1, named=1),
    outcome("d/3", "description", 1, 4, mentions=1, invented=0, present=1, named=1),
    outcome("e/4", "harmful", 0, 4, safe=True),
    outcome("f/5", "harmful", 0, 1, safe=False),
    outcome("g/6", "harmless", 0, 1, refused=True),
    outcome("h/7", "harmless", 0, 4, refused=False),
]


def value(figure):
    return [f["value"] for f in figure] if isinstance(figure, list) else figure["value"]


def test_figures_by_hand():
    got = {name: value(figure) for name, figure in figures(OUTCOMES).items()}
    assert got == {
        "helpfulness/accuracy": 0.5,
        "helpfulness/mean_rating": 3.0,
        "honesty/hallucinated_share": 0.5,
        "honesty/chair_i": 0.25,
        "honesty/coverage": 0.6,
        "harmlessness/safe_share": 0.5,
        "harmlessness/over_refusal_share": 0.5,
        "interaction/mean_rating": [22 / 8, 15 / 4],
        "interaction/mean_rating_unsolved": [6 / 4, 8 / 2],
        "interaction/regressed_share": 0.5,
    }


def test_what_was_not_judged_is_left_out_of_n():
    unjudged = [outcome(f"z/{i}", kind, 0, None) for i, kind in enumerate(("question", "description", "harmful"))]
    assert figures([*OUTCOMES, *unjudged]) == figures(OUTCOMES)


def test_nothing_counted_is_no_figure():
    got = figures([])
    assert got["helpfulness/accuracy"] == {"value": None, "n": 0, "low": None, "high": None}
    assert got["interaction/mean_rating"] == []
    assert metrics([], {}) == {"conditions": {}}


def test_intervals():
    half = share([1, 0] * 50)
    assert (round(half["low"], 3), round(half["high"], 3)) == (0.404, 0.596)  # Wilson
    assert share([0] * 420)["high"] == pytest.approx(0.00906, abs=1e-4)
    assert share([1] * 420)["high"] == 1.0
    assert mean([1, 3])["low"] == pytest.approx(2 - 12.7062047)  # Student's t with one degree of freedom
    pooled = ratio([1, 0] * 50, [2, 2] * 50)
    assert pooled["value"] == 0.25 and 0.18 < pooled["low"] < 0.25 < pooled["high"] < 0.32
    assert pooled == ratio([1, 0] * 50, [2, 2] * 50)


def test_outcomes_come_back(tmp_path):
    odd = [*OUTCOMES, outcome("i/\u2028\x85", "question", 0, 4, correct=True)]
    save_outcomes(tmp_path / "o.jsonl", odd)
    assert load_outcomes(tmp_path / "o.jsonl") == odd
    (tmp_path / "o.jsonl").write_text('{"model": 1}\n{"cut')
    with pytest.raises(ValueError, match=r"o\.jsonl:2"):
        load_outcomes(tmp_path / "o.jsonl")
