"""From outcomes to the figures of `suite.json`, and the paired comparison with a baseline.

Every figure is a sum over samples divided by a sum over samples: shares, means, F1, CHAIR_i and LLaVA's
relative score are all of that form. So one bootstrap over samples serves all of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dress.evaluation.metrics import Figure, mean, ratio, resampled_sums, share
from dress.evaluation.suites.outcome import SuiteOutcome, counted, failures

Pair = tuple[float, float]
Pairs = Mapping[str, Pair]
"""Sample key to what it adds to the two sums."""


@dataclass(frozen=True)
class Measure:
    """One figure: `scale` · Σ top / Σ bottom over the samples that `of` gives a pair for.

    `of` returns (top, bottom) of one outcome, or None where the figure does not concern it.
    `key` is its name in suite.json; `kind` tells how its interval is made: `share` of samples (Wilson),
    `mean` (normal), `ratio` of sums (bootstrap over samples). `up` says whether more is better (None: neither);
    `per_cent` whether a table shows it times 100.
    """

    key: str
    name: str
    of: Callable[[SuiteOutcome], Pair | None]
    kind: Literal["share", "mean", "ratio"] = "share"
    up: bool | None = True
    scale: float = 1.0
    per_cent: bool = True

    def pairs(self, outcomes: Iterable[SuiteOutcome]) -> dict[str, Pair]:
        """What each sample adds; several runs and turns of one sample are averaged, for they are not independent."""
        found: dict[str, list[Pair]] = defaultdict(list)
        for outcome in outcomes:
            pair = self.of(outcome)
            if pair is not None:
                found[outcome.key].append((float(pair[0]), float(pair[1])))
        return {
            key: (sum(top for top, _ in several) / len(several), sum(bottom for _, bottom in several) / len(several))
            for key, several in found.items()
        }

    def figure(self, pairs: Pairs) -> Figure:
        """Value, n (samples that it is made of) and 95 % interval."""
        tops, bottoms = [top for top, _ in pairs.values()], [bottom for _, bottom in pairs.values()]
        if self.kind != "ratio" and all(bottom == 1 for bottom in bottoms):
            plain = self.kind == "share" and set(tops) <= {0.0, 1.0}
            found = share(int(sum(tops)), len(tops)) if plain else mean(tops)
            if self.kind == "share" and tops:  # means of several runs or turns: a normal interval leaves [0, 1]
                found |= {"low": max(0.0, found["low"] or 0.0), "high": min(1.0, found["high"] or 0.0)}
        else:
            found = ratio(tops, bottoms)
        scaled = {key: None if (v := found[key]) is None else self.scale * v for key in ("value", "low", "high")}
        return {**scaled, "n": len(pairs)}

    def difference(self, pairs: Pairs, baseline: Pairs) -> Figure:
        """This minus the baseline over the samples of both, with a paired bootstrap interval."""
        keys = sorted(pairs.keys() & baseline.keys())
        table = np.array([(*pairs[key], *baseline[key]) for key in keys], dtype=float).reshape(-1, 4)
        if not table[:, 1].sum() or not table[:, 3].sum():
            return {"value": None, "n": len(keys), "low": None, "high": None}
        sums = resampled_sums(table, "paired bootstrap")
        sums = sums[(sums[:, 1] > 0) & (sums[:, 3] > 0)]
        low, high = np.percentile(self._apart(sums), [2.5, 97.5])
        value = self._apart(table.sum(axis=0, keepdims=True))[0]
        return {"value": float(value), "n": len(keys), "low": float(low), "high": float(high)}

    def mean_of(self, categories: Sequence[tuple[Pairs, Pairs | None]]) -> Figure:
        """The mean over categories, each (pairs, pairs of the baseline or None); None where one counts nothing.

        The interval is a bootstrap over samples: what stands in several categories is drawn for all of them.
        """
        parts = [(ours, theirs) if theirs is None else ({k: ours[k] for k in ours.keys() & theirs.keys()}, theirs)
                 for ours, theirs in categories]  # fmt: skip
        n = sum(len(ours) for ours, _ in parts)
        keys = sorted(set().union(*(ours for ours, _ in parts)))
        nothing = (0.0, 0.0)
        table = np.array(
            [[number for ours, theirs in parts
              for number in (*ours.get(key, nothing), *(theirs or {}).get(key, nothing))] for key in keys],
            dtype=float,
        ).reshape(-1, 4 * len(parts))  # fmt: skip
        minus = [theirs is not None for _, theirs in parts]
        if not table[:, [4 * i + k for i, m in enumerate(minus) for k in ((1, 3) if m else (1,))]].sum(axis=0).all():
            return {"value": None, "n": n, "low": None, "high": None}

        def means(sums: np.ndarray) -> np.ndarray:
            each = [
                sums[:, 4 * i] / sums[:, 4 * i + 1] - (sums[:, 4 * i + 2] / sums[:, 4 * i + 3] if m else 0)
                for i, m in enumerate(minus)
            ]
            return self.scale * np.mean(each, axis=0)

        with np.errstate(invalid="ignore", divide="ignore"):  # a draw in which a category counts nothing
            drawn = means(resampled_sums(table, "mean of categories"))
        low, high = np.percentile(drawn[np.isfinite(drawn)], [2.5, 97.5])
        value = means(table.sum(axis=0, keepdims=True))[0]
        return {"value": float(value), "n": n, "low": float(low), "high": float(high)}

    def _apart(self, sums: np.ndarray) -> np.ndarray:
        return self.scale * (sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3])


@dataclass(frozen=True)
class Suite:
    """What a suite computes. `more` adds keys of its own to every set of figures.

    `mean_over` names the categories whose mean the figures over all are; none of them: over all samples.
    """

    name: str
    measures: Callable[[Sequence[SuiteOutcome]], Sequence[Measure]]
    more: Callable[[Sequence[SuiteOutcome]], dict[str, Any]] = lambda outcomes: {}
    mean_over: Callable[[Sequence[SuiteOutcome]], Sequence[str]] = lambda outcomes: ()


def summary(
    suite: Suite, outcomes: Sequence[SuiteOutcome], baseline: Sequence[SuiteOutcome] | None = None
) -> dict[str, Any]:
    """What `suite.json` holds, from outcomes alone.

    Args:
        suite: whose figures.
        outcomes: of this evaluation.
        baseline: of the one it is compared with.

    Returns:
        Every measure's value under its key, `n`, `failures`, `failed` (reason → number), `intervals`
        and `counted` (n of each measure), in all and under `by_category`; `mean_over` where the figures
        in all are means of categories; `judge`, `prompt_hash`, `responder`, `runs`; `comparison` with a
        baseline.
    """
    told = figures(suite, outcomes)
    categories, averaged = by_category(outcomes), list(suite.mean_over(outcomes))
    if averaged:
        told |= _means(suite, [categories[name] for name in averaged]) | {"mean_over": averaged}
    result = {
        "suite": suite.name, **told,
        "by_category": {name: figures(suite, members) for name, members in categories.items()},
        "judge": _joined(o.judge for o in outcomes), "prompt_hash": _joined(o.prompt for o in outcomes),
        "responder": _joined(o.responder for o in outcomes), "runs": len({o.run for o in outcomes}),
    }  # fmt: skip
    if baseline is not None:
        others = by_category(baseline)
        between = compared(suite, outcomes, baseline)
        if averaged:
            between["mean_over"] = averaged
            pairs = [(categories[name], others.get(name, [])) for name in averaged]
            between["differences"] = {
                m.key: m.mean_of([(_of(m, ours), _of(m, theirs)) for ours, theirs in pairs])
                for m in suite.measures(outcomes)
            }
        result["comparison"] = {
            **between,
            "by_category": {
                name: compared(suite, members, others[name]) for name, members in categories.items() if name in others
            },
        }
    return result


def figures(suite: Suite, outcomes: Sequence[SuiteOutcome]) -> dict[str, Any]:
    """Values, n, failures and intervals of one set of outcomes."""
    good, bad = counted(outcomes), failures(outcomes)
    measured = {m.key: m.figure(m.pairs(good)) for m in suite.measures(outcomes)}
    return {
        **{key: figure["value"] for key, figure in measured.items()},
        "n": len({outcome.key for outcome in good}), "failures": sum(bad.values()), "failed": bad,
        "intervals": {key: [figure["low"], figure["high"]] for key, figure in measured.items()},
        "counted": {key: figure["n"] for key, figure in measured.items()},
        **suite.more(outcomes),
    }  # fmt: skip


def _means(suite: Suite, categories: Sequence[Sequence[SuiteOutcome]]) -> dict[str, Any]:
    """Values and intervals of the mean over categories, in the place of those over all samples."""
    everything = [outcome for members in categories for outcome in members]
    means = {m.key: m.mean_of([(_of(m, members), None) for members in categories]) for m in suite.measures(everything)}
    return {
        **{key: figure["value"] for key, figure in means.items()},
        "intervals": {key: [figure["low"], figure["high"]] for key, figure in means.items()},
        "counted": {key: figure["n"] for key, figure in means.items()},
    }


def _of(measure: Measure, members: Sequence[SuiteOutcome]) -> Pairs:
    """Pairs of one category, by the sample's name in it: several categories may hold one sample."""
    name = members[0].category if members else ""
    return {key.removeprefix(f"{name}/"): pair for key, pair in measure.pairs(counted(members)).items()}


def compared(suite: Suite, outcomes: Sequence[SuiteOutcome], baseline: Sequence[SuiteOutcome]) -> dict[str, Any]:
    """Differences over the samples of both, and how many are in one of them only."""
    ours, theirs = counted(outcomes), counted(baseline)
    keys, others = {outcome.key for outcome in ours}, {outcome.key for outcome in theirs}
    return {
        "pairs": len(keys & others), "only_here": len(keys - others), "only_baseline": len(others - keys),
        "differences": {m.key: m.difference(m.pairs(ours), m.pairs(theirs)) for m in suite.measures(outcomes)},
    }  # fmt: skip


def by_category(outcomes: Iterable[SuiteOutcome]) -> dict[str, list[SuiteOutcome]]:
    """Outcomes of each category, by name; those without one are in no category."""
    found: dict[str, list[SuiteOutcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.category:
            found[outcome.category].append(outcome)
    return dict(sorted(found.items()))


def _joined(names: Iterable[str | None]) -> str | None:
    return ", ".join(sorted({name for name in names if name})) or None
