"""From outcomes to figures, each with n and interval, and the paired difference to a baseline.

Every figure is a sum over samples divided by a sum over samples: shares, means, F1, CHAIR_i and LLaVA's
relative score are all of that form. So one bootstrap over samples serves all of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from dress.evaluation.outcomes import Outcome
from dress.evaluation.statistics import Array, Figure, bootstrap, mean, ratio, share


class Part(NamedTuple):
    """What one sample adds to the two sums, and the cluster that it is drawn with."""

    top: float
    bottom: float
    cluster: str = ""


Parts = Mapping[str, Part]
"""By the sample's name."""


@dataclass(frozen=True)
class Measure:
    """One figure: `scale` · Σ top / Σ bottom over the samples that `of` gives a pair for.

    Args:
        key: its name in the file of figures.
        name: as tables have it.
        of: (top, bottom) of one outcome, or None where the figure does not concern it.
        kind: how its interval is made: of a `share`, a `mean` or a `ratio` (see `dress.evaluation.statistics`).
        up: whether more is better; None: neither.
        scale: what the value is multiplied by.
        pooled: every answer is a sample; else the runs and turns of one item are averaged.
        best: the highest that top / bottom can be; None where nobody knows.
    """

    key: str
    name: str
    of: Callable[[Outcome], tuple[float, float] | None]
    kind: Literal["share", "mean", "ratio"] = "share"
    up: bool | None = True
    scale: float = 1.0
    pooled: bool = False
    best: float | None = None

    @property
    def per_cent(self) -> bool:
        """Whether a table shows it times 100: shares, and ratios on no scale of their own."""
        return self.kind != "mean" and self.scale == 1

    def parts(self, outcomes: Iterable[Outcome]) -> dict[str, Part]:
        """What each sample adds to the sums."""
        several: dict[str, list[Part]] = defaultdict(list)
        for outcome in outcomes:
            pair = self.of(outcome)
            if pair is not None:
                name = f"{outcome.item} {outcome.turn} {outcome.run}" if self.pooled else outcome.item
                several[name].append(Part(float(pair[0]), float(pair[1]), outcome.cluster))
        return {
            name: Part(sum(p.top for p in some) / len(some), sum(p.bottom for p in some) / len(some), some[0].cluster)
            for name, some in several.items()
        }

    def figure(self, outcomes: Iterable[Outcome]) -> Figure:
        """Value, n and 95 % interval; n of a ratio is the sum of its bottoms."""
        return self.figure_of(self.parts(outcomes))

    def figure_of(self, parts: Parts) -> Figure:
        """The same from what every sample adds."""
        tops, bottoms, clusters = zip(*parts.values(), strict=True) if parts else ((), (), ())
        if self.kind == "ratio" or any(bottom != 1 for bottom in bottoms):
            figure = ratio(tops, bottoms, clusters)
        else:
            figure = share(tops, clusters) if self.kind == "share" else mean(tops, clusters)
        scaled = {key: None if (v := figure[key]) is None else self.scale * v for key in ("value", "low", "high")}
        return {"value": scaled["value"], "n": figure["n"], "low": scaled["low"], "high": scaled["high"]}

    def difference(self, outcomes: Iterable[Outcome], baseline: Iterable[Outcome]) -> Figure:
        """This minus the baseline over the samples of both, with a paired bootstrap interval."""
        ours, theirs = self.parts(outcomes), self.parts(baseline)
        names = sorted(ours.keys() & theirs.keys())
        table = np.array([(*ours[name][:2], *theirs[name][:2]) for name in names], dtype=float).reshape(-1, 4)
        return self._figure(table, [True], [ours[name].cluster for name in names], len(names), "paired bootstrap")

    def mean_of(self, categories: Sequence[tuple[Parts, Parts | None]]) -> Figure:
        """The mean over categories, or of their differences; None where one counts nothing.

        What stands in several categories under one name is drawn for all of them.

        Args:
            categories: what samples add here, and in the baseline (None: without a baseline).
        """
        pairs = [(ours, theirs) if theirs is None else ({k: ours[k] for k in ours.keys() & theirs.keys()}, theirs)
                 for ours, theirs in categories]  # fmt: skip
        names = sorted(set().union(*(ours for ours, _ in pairs)))
        clusters = {name: part.cluster for ours, _ in pairs for name, part in ours.items()}
        empty = Part(0.0, 0.0)
        table = np.array(
            [[number for ours, theirs in pairs
              for number in (*ours.get(name, empty)[:2], *(theirs or {}).get(name, empty)[:2])] for name in names],
            dtype=float,
        ).reshape(-1, 4 * len(pairs))  # fmt: skip
        size = sum(len(ours) for ours, _ in pairs)
        minus = [theirs is not None for _, theirs in pairs]
        return self._figure(table, minus, [clusters[name] for name in names], size, "bootstrap")

    def _figure(self, table: Array, minus: Sequence[bool], clusters: Sequence[str], n: int, draws: str) -> Figure:
        """The mean over groups of four columns: Σ top / Σ bottom, `minus` the same of the other two columns."""

        def value(sums: Array) -> Array:
            with np.errstate(divide="ignore", invalid="ignore"):
                parts = [
                    self.scale * (sums[4 * i] / sums[4 * i + 1] - (sums[4 * i + 2] / sums[4 * i + 3] if less else 0))
                    for i, less in enumerate(minus)
                ]
            return np.mean(parts, axis=0)

        at_all = value(table.sum(axis=0)) if len(table) else np.nan
        if not np.isfinite(at_all):
            return {"value": None, "n": n, "low": None, "high": None}
        low, high = bootstrap(table, value, draws, clusters)
        return {"value": float(at_all), "n": n, "low": low, "high": high}
