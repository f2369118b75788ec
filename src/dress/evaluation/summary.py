"""What a suite's `suite.json` holds, from outcomes alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from dress.evaluation.measures import Measure, Parts
from dress.evaluation.outcomes import Outcome, counted, failures
from dress.evaluation.statistics import Figure
from dress.evaluation.suite import Json, Outcomes, Suite


def summary(suite: Suite, outcomes: Outcomes, baseline: Outcomes | None = None) -> Json:
    """All figures.

    Args:
        suite: whose measures.
        outcomes: of this evaluation.
        baseline: of the one that it is compared with.

    Returns:
        Every measure's value under its key, `n`, `failures`, `failed` (reason → number), `intervals`
        and `counted` (n of each measure), in all and under `by_category`; `mean_over` where the figures
        in all are means of categories; `judge`, `prompt_hash`, `responder`, `runs`; `comparison` with a
        baseline.
    """
    categories, averaged = by_category(outcomes), list(suite.mean_over(outcomes))
    result = figures(suite, outcomes)
    if averaged:
        means = {
            m.key: m.mean_of([(_parts(m, categories[name]), None) for name in averaged])
            for m in suite.measures_of(outcomes)
        }
        result |= _columns(means) | {"counted": {key: mean["n"] for key, mean in means.items()}, "mean_over": averaged}
    result = {
        "suite": suite.name, **result,
        "by_category": {name: figures(suite, members) for name, members in categories.items()},
        "judge": _joined(o.judge for o in outcomes), "prompt_hash": _joined(o.prompt for o in outcomes),
        "responder": _joined(o.responder for o in outcomes), "runs": len({o.run for o in outcomes}),
    }  # fmt: skip
    if baseline is not None:
        others = by_category(baseline)
        comparison = compared(suite, outcomes, baseline)
        if averaged:
            pairs = [(categories[name], others.get(name, [])) for name in averaged]
            comparison |= {"mean_over": averaged, "differences": {
                m.key: m.mean_of([(_parts(m, ours), _parts(m, theirs)) for ours, theirs in pairs])
                for m in suite.measures_of(outcomes)
            }}  # fmt: skip
        comparison["by_category"] = {
            name: compared(suite, members, others[name]) for name, members in categories.items() if name in others
        }
        result["comparison"] = comparison
    return result


def figures(suite: Suite, outcomes: Outcomes) -> Json:
    """Values, n, failures and intervals of one set of outcomes."""
    good, bad = counted(outcomes), failures(outcomes)
    parts = {m.key: (m, m.parts(good)) for m in suite.measures_of(outcomes)}
    measured = _columns({key: measure.figure_of(some) for key, (measure, some) in parts.items()})
    intervals = {"intervals": measured.pop("intervals")}
    return {
        **measured, "n": len({outcome.item for outcome in good}), "failures": sum(bad.values()), "failed": bad,
        **intervals, "counted": {key: len(some) for key, (_, some) in parts.items()}, **suite.more(outcomes),
    }  # fmt: skip


def compared(suite: Suite, outcomes: Outcomes, baseline: Outcomes) -> Json:
    """Differences over the samples of both, and how many are in one of them only."""
    ours, theirs = counted(outcomes), counted(baseline)
    items, others = {outcome.item for outcome in ours}, {outcome.item for outcome in theirs}
    return {
        "pairs": len(items & others), "only_here": len(items - others), "only_baseline": len(others - items),
        "differences": {m.key: m.difference(ours, theirs) for m in suite.measures_of(outcomes)},
    }  # fmt: skip


def by_category(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    """Outcomes of each category, by name; those without one are in no category."""
    categories: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.category:
            categories[outcome.category].append(outcome)
    return dict(sorted(categories.items()))


def _columns(measured: Mapping[str, Figure]) -> Json:
    """Values by key, and the intervals beside them."""
    intervals = {key: [figure["low"], figure["high"]] for key, figure in measured.items()}
    return {**{key: figure["value"] for key, figure in measured.items()}, "intervals": intervals}


def _parts(measure: Measure, members: Sequence[Outcome]) -> Parts:
    """What samples of one category add, by the sample's name in it: several categories may hold one sample."""
    name = members[0].category if members else ""
    return {item.removeprefix(f"{name}/"): part for item, part in measure.parts(counted(members)).items()}


def _joined(names: Iterable[str | None]) -> str | None:
    return ", ".join(sorted({name for name in names if name})) or None
