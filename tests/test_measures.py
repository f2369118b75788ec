"""Figures of suites are sums over sums: intervals, runs, clusters, baselines."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dress.evaluation.measures import Measure
from dress.evaluation.outcomes import Outcome
from dress.evaluation.settings import SuiteSettings
from dress.evaluation.suite import Suite
from dress.evaluation.summary import compared, figures, summary

SHARE = Measure("right", "right", lambda o: (o.facts["right"], 1))
RATIO = Measure("part", "part", lambda o: (o.facts["right"], o.facts["of"]), kind="ratio", scale=100)
TOY = Suite("toy", SuiteSettings, lambda settings, console: [], measures=(SHARE, RATIO))


def toy(right: list[int], first: int = 0, **more: Any) -> list[Outcome]:
    return [Outcome(item=f"s{first + n}", facts={"right": r, "of": 2}, **more) for n, r in enumerate(right)]


def test_figures_are_sums_over_sums_with_intervals() -> None:
    outcomes = [*toy([1] * 30 + [0] * 10), Outcome(item="x", failed="why")]
    found = summary(TOY, outcomes)
    assert (found["right"], found["part"], found["n"], found["failures"]) == (0.75, 37.5, 40, 1)
    low, high = found["intervals"]["right"]
    assert (low, high) == (pytest.approx(0.598, abs=1e-3), pytest.approx(0.858, abs=1e-3))  # Wilson
    low, high = found["intervals"]["part"]
    assert 25 < low < 37.5 < high < 45


def test_of_one_sample_one_outcome_counts_and_runs_are_averaged() -> None:
    again = [*toy([1, 0]), *toy([0, 0])]
    assert summary(TOY, again)["right"] == 0.5
    runs = [*toy([1, 0], run=0), *toy([0, 0], run=1)]
    found = summary(TOY, runs)
    assert (found["right"], found["n"], found["runs"], found["counted"]["right"]) == (0.25, 2, 2, 2)


def test_a_share_of_several_runs_stays_a_share() -> None:
    runs = [*toy([1, 1, 1, 0], run=0), *toy([1, 1, 0, 1], run=1)]
    low, high = summary(TOY, runs)["intervals"]["right"]
    assert low < 0.75 < high == 1


@given(st.lists(st.integers(0, 1), min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_figures_do_not_depend_on_the_order_of_outcomes(right: list[int], random: Any) -> None:
    outcomes = toy(right)
    mixed = random.sample(outcomes, len(outcomes))
    ours, theirs = (figures(TOY, some)["right"] for some in (outcomes, mixed))
    assert ours == pytest.approx(theirs) and 0 <= ours <= 1


def test_a_baseline_is_compared_by_pairs() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2, 400)
    better = np.maximum(base, rng.random(400) < 0.05)  # right wherever the baseline is, and a little more
    found = compared(TOY, toy(better.tolist()), toy(base.tolist(), first=10))
    assert (found["pairs"], found["only_here"], found["only_baseline"]) == (390, 10, 10)
    same = compared(TOY, toy(better.tolist()), toy(base.tolist()))["differences"]["right"]
    assert same["value"] == pytest.approx(better.mean() - base.mean())
    # Unpaired, an interval of 400 shares would be three times as wide and hold 0.
    assert 0 < same["low"] < same["value"] < same["high"] < 2.5 * same["value"]
    none = compared(TOY, toy([1]), toy([1], first=1))["differences"]["right"]
    assert none["value"] is None


def of_records(records: int, each: int, right: Any, **more: Any) -> list[Outcome]:
    """`each` samples of every record; `right` says of (record, number) whether it is."""
    return [
        Outcome(item=f"r{r}/{n}", key=f"r{r}", facts={"right": int(right(r, n)), "of": 1}, **more)
        for r in range(records) for n in range(each)
    ]  # fmt: skip


def width(outcomes: list[Outcome], key: str) -> float:
    low, high = figures(TOY, outcomes)["intervals"][key]
    return high - low


@pytest.mark.parametrize("key", ["right", "part"])
def test_samples_of_one_record_are_not_taken_for_independent(key: str) -> None:
    """Ten copies of forty samples say as much as the forty."""
    forty = of_records(40, 1, lambda r, n: r % 3 == 0)
    copies = of_records(40, 10, lambda r, n: r % 3 == 0)
    apart = [replace(outcome, key="") for outcome in copies]
    assert figures(TOY, copies)[key] == pytest.approx(figures(TOY, forty)[key])
    assert width(copies, key) == pytest.approx(width(forty, key), rel=0.15)
    assert width(apart, key) < 0.4 * width(copies, key)
    assert figures(TOY, copies)["counted"][key] == 400


def test_a_difference_draws_records_too() -> None:
    theirs = of_records(40, 10, lambda r, n: r % 3 == 0)
    ours = of_records(40, 10, lambda r, n: r % 3 == 0 or r % 4 == 1)
    clustered = SHARE.difference(ours, theirs)
    plain = SHARE.difference([replace(o, key="") for o in ours], theirs)
    assert clustered["value"] == plain["value"] and clustered["n"] == plain["n"] == 400
    assert clustered["high"] - clustered["low"] > 2 * (plain["high"] - plain["low"])  # type: ignore[operator]


def test_an_interval_over_few_records_holds_what_nobody_saw() -> None:
    """All of 4 records right, 25 times each: of 100 independent samples it would be above 0.96."""
    low, high = figures(TOY, of_records(4, 25, lambda r, n: True))["intervals"]["right"]
    assert low < 0.5 and high == 1
