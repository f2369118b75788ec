"""Figures with n and a 95 % interval, by scipy; samples that share a record are not taken for independent.

A cluster is a record (an image) whose samples were counted together. Where every cluster holds one sample, a share
has its Wilson interval, a mean Student's t, a ratio of sums a percentile bootstrap over samples. Where clusters hold
several, the bootstrap draws clusters; a mean has the cluster-robust variance of a ratio estimator, with as many
degrees of freedom as clusters less one; a share has the exact binomial interval for the number of independent samples
that would vary as much (Korn and Graubard, 1998; at 0 and 1, where nothing varies, the number of clusters).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from dress.base.seeding import seed_for

Figure = dict[str, float | int | None]
"""`value`, `n`, `low`, `high`; value and interval are None where nothing was counted."""
Array = NDArray[np.float64]
LEVEL = 0.95
PERCENTILES = (2.5, 97.5)
RESAMPLES, AT_ONCE = 1000, 50
"""Bootstrap samples, and how many of them are in memory: all at once would take gigabytes for a large evaluation."""


def share(values: Sequence[float], clusters: Sequence[str] | None = None) -> Figure:
    """The share of ones among zeros and ones (or the mean of shares), with an interval inside of [0, 1].

    Args:
        values: one per sample.
        clusters: name of each sample's cluster; None: all are independent.
    """
    from scipy.stats import beta, binomtest

    n, total = len(values), sum(values)
    if n == 0:
        return nothing()
    value, count = total / n, n if clusters is None else len(set(clusters))
    if not set(values) <= {0, 1}:
        figure = mean(values, clusters)
        return figure | {"low": max(0.0, figure["low"] or 0.0), "high": min(1.0, figure["high"] or 0.0)}
    if count == n:
        low, high = binomtest(int(total), n).proportion_ci(LEVEL, "wilson")
    else:
        variance = _variance(np.asarray(values, dtype=float), clusters)
        size = count if value in (0, 1) else min(n, value * (1 - value) / variance) if variance else n
        ones = value * size
        low = beta.ppf((1 - LEVEL) / 2, ones, size - ones + 1) if value > 0 else 0.0
        high = beta.ppf((1 + LEVEL) / 2, ones + 1, size - ones) if value < 1 else 1.0
    return {"value": value, "n": n, "low": float(low), "high": float(high)}


def mean(values: Sequence[float], clusters: Sequence[str] | None = None) -> Figure:
    """The mean; the interval of a single sample or cluster is that one value.

    Args:
        values: one per sample.
        clusters: name of each sample's cluster; None: all are independent.
    """
    from scipy.stats import t

    if not len(values):
        return nothing()
    array = np.asarray(values, dtype=float)
    count = len(array) if clusters is None else len(set(clusters))
    half = t.ppf((1 + LEVEL) / 2, count - 1) * math.sqrt(_variance(array, clusters)) if count > 1 else 0.0
    value = float(array.mean())
    return {"value": value, "n": len(array), "low": float(value - half), "high": float(value + half)}


def ratio(tops: Sequence[float], bottoms: Sequence[float], clusters: Sequence[str] | None = None) -> Figure:
    """sum(tops) / sum(bottoms), pooled; n = sum(bottoms).

    Args:
        tops: what each sample adds to the first sum.
        bottoms: what each sample adds to the second.
        clusters: name of each sample's cluster; None: all are independent.
    """
    columns = np.asarray([tops, bottoms], dtype=float).T
    top, bottom = columns.sum(axis=0) if len(columns) else (0.0, 0.0)
    if bottom == 0:
        return nothing()
    low, high = bootstrap(columns, lambda sums: sums[0] / sums[1], "bootstrap", clusters)
    return {"value": float(top / bottom), "n": int(bottom), "low": low, "high": high}


def bootstrap(
    columns: Array, statistic: Callable[[Array], Array], name: str, clusters: Sequence[str] | None = None
) -> tuple[float | None, float | None]:
    """Percentile interval of a function of sums over samples; resamples for which it is not defined are left out.

    None where it is defined for no resample, as of a mean over many categories with a sample or two in each.

    Args:
        columns: [n, k], the rows of n samples.
        statistic: of the sums [k, …] of all columns.
        name: the draws depend on it and on the number of clusters only.
        clusters: name of each sample's cluster, drawn together; None: all are independent.
    """
    from scipy import stats

    rows = _sums(columns, clusters)

    def of_resamples(*parts: Array, axis: int) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            values = statistic(np.stack([part.sum(axis=axis) for part in parts]))
        return np.where(np.isfinite(values), values, np.nan)

    if len(rows) == 1:
        (value,) = of_resamples(*rows.T[:, None, :], axis=-1)
        return (float(value), float(value)) if np.isfinite(value) else (None, None)
    seed = seed_for(name, len(rows))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # not defined for some resamples: see below
        drawn = stats.bootstrap(
            tuple(rows.T), of_resamples, paired=True, vectorized=True, n_resamples=RESAMPLES, batch=AT_ONCE,
            method="percentile", rng=np.random.default_rng(seed),
        )  # fmt: skip
    values = drawn.bootstrap_distribution[np.isfinite(drawn.bootstrap_distribution)]
    if not len(values):
        return None, None
    low, high = np.percentile(values, PERCENTILES)
    return float(low), float(high)


def nothing() -> Figure:
    """The figure of no sample."""
    return {"value": None, "n": 0, "low": None, "high": None}


def _variance(values: Array, clusters: Sequence[str] | None) -> float:
    """Of their mean: from the sums of what each cluster's samples differ from it by."""
    sums = _sums((values - values.mean())[:, None], clusters)[:, 0]
    return float(len(sums) / (len(sums) - 1) * (sums**2).sum() / len(values) ** 2) if len(sums) > 1 else 0.0


def _sums(columns: Array, clusters: Sequence[str] | None) -> Array:
    """[c, k] from [n, k]: the rows of each cluster added up, in the order in which the clusters begin."""
    if clusters is None:
        return columns
    numbers: dict[str, int] = {}
    places = [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]
    sums = np.zeros((len(numbers), columns.shape[1]))
    np.add.at(sums, places, columns)
    return sums
