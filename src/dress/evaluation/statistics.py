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
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dress.base.seeding import seed_for
from dress.record import TOP_RATING

Figure = dict[str, float | int | None]
"""`value`, `n`, `low`, `high`; value and interval are None where nothing was counted."""
Array = NDArray[np.float64]
RATINGS = tuple(range(1, TOP_RATING + 1))
LEVEL = 0.95
PERCENTILES = (2.5, 97.5)
RESAMPLES, AT_ONCE, NUMBERS_AT_ONCE = 1000, 50, 20_000_000
"""Bootstrap samples; how many of them, and of how many numbers, are in memory: all at once would take gigabytes for a
large evaluation."""


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


def alpha(
    counts: Array, level: Literal["nominal", "ordinal", "interval"] = "ordinal",
    values: Sequence[float] = RATINGS, clusters: Sequence[str] | None = None,
) -> Figure:  # fmt: skip
    """Krippendorff's alpha of what several raters said: 1 where all are equal, 0 where they differ as by chance.

    One minus what raters differ by within units ÷ what they would differ by if ratings were dealt out anew
    (Krippendorff, Content Analysis, 2004, chapter 11). None where all ratings are equal: nothing could be told apart.
    Its interval is a bootstrap over units or clusters.

    Args:
        counts: [units, values], how many raters gave a unit each of the values; of a unit with one rating or none
            nothing can be said, and it does not count in n.
        level: how far two values are apart: nominal 0 or 1, ordinal by how many ratings lie between them, interval
            by the square of their difference.
        values: in their order.
        clusters: name of each unit's cluster, drawn together; None: all are independent.
    """
    counts = np.asarray(counts, dtype=float).reshape(-1, len(values))
    raters = counts.sum(axis=1)
    several = raters >= 2
    if not several.any():
        return nothing()
    kept, number = counts[several], len(values)
    pairs = kept[:, :, None] * kept[:, None, :] - kept[:, :, None] * np.eye(number)
    columns = (pairs / (raters[several] - 1)[:, None, None]).reshape(len(kept), -1)
    names = None if clusters is None else [name for name, one in zip(clusters, several, strict=True) if one]

    def statistic(sums: Array) -> Array:
        return _alpha(sums.reshape(number, number, *sums.shape[1:]), level, values)

    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(columns.sum(axis=0)))
    if not math.isfinite(value):
        return nothing() | {"n": len(kept)}
    low, high = bootstrap(columns, statistic, "alpha", names)
    return {"value": value, "n": len(kept), "low": low, "high": high}


def _alpha(pairs: Array, level: str, values: Sequence[float]) -> Array:
    """Alpha of the numbers of pairs [values, values, …] within units."""
    numbers = pairs.sum(axis=1)
    rated = numbers.sum(axis=0)
    if level == "ordinal":  # what lies between two values, half of their own ratings with it
        places = numbers.cumsum(axis=0) - numbers / 2
    else:
        places = np.asarray(values, dtype=float).reshape(-1, *[1] * (numbers.ndim - 1))
    apart = (places[:, None] - places[None]) ** 2
    if level == "nominal":
        apart = (apart > 0).astype(float)
    by_chance = (numbers[:, None] * numbers[None] * apart).sum(axis=(0, 1))
    return 1 - (rated - 1) * (pairs * apart).sum(axis=(0, 1)) / by_chance


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
    seed, batch = seed_for(name, len(rows)), max(1, min(AT_ONCE, NUMBERS_AT_ONCE // rows.size))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # not defined for some resamples: see below
        drawn = stats.bootstrap(
            tuple(rows.T), of_resamples, paired=True, vectorized=True, n_resamples=RESAMPLES, batch=batch,
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
