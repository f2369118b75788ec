"""Is the image used? How likely a model finds its answers with the image, and with nothing to see in its place.

Learning from textual feedback can teach a model to do without the picture (ViGOS, arXiv 2606.19120).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dress.evaluation.measures import Measure
from dress.evaluation.outcomes import Outcome
from dress.evaluation.statistics import Figure

WITH, WITHOUT = "log_prob", "log_prob_blank"
"""Names among an outcome's facts: mean log-probability per token of an answer, in nats."""


def _nats(of: Callable[[float, float], float]) -> Callable[[Outcome], tuple[float, float] | None]:
    def pair(outcome: Outcome) -> tuple[float, float] | None:
        if outcome.turn or WITH not in outcome.facts:
            return None
        return of(outcome.facts[WITH], outcome.facts[WITHOUT]), 1

    return pair


MEASURES = (
    Measure("image/log_prob", "log-probability", _nats(lambda seen, blank: seen), kind="mean", up=None),
    Measure("image/log_prob_blank", "without image", _nats(lambda seen, blank: blank), kind="mean", up=None),
    Measure("image/gap", "gap", _nats(lambda seen, blank: seen - blank), kind="mean"),
)


def figures(outcomes: Sequence[Outcome]) -> dict[str, Figure]:
    """What `MEASURES` say of answers, where any was scored."""
    known = any(WITH in one.facts for one in outcomes)
    return {measure.key: measure.figure(outcomes) for measure in MEASURES} if known else {}
