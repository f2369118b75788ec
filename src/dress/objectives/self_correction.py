"""self_correction: after a good first answer and after a bad one alike, the good second answer becomes likelier.

(1 - w beta D_good - w beta D_bad)^2, D the difference of the log-ratios to the stage's start of the good and the bad
second answer, after the good first answer and after the bad one (Ding and Zhang, 2025: Sherlock, arXiv 2505.22651). By
comparisons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from dress import config
from dress.dialogue.spans import SECOND_ANSWERS, AnswerFacts
from dress.objectives.comparisons import Comparison, Scores, by_group, column


class Correction:
    """Compares the four leaves of a question with two first and two second answers."""

    figures = ("margin_after_good", "margin_after_bad")

    def __init__(self, settings: config.SelfCorrection) -> None:
        self.settings = settings

    def compared(self, facts: Sequence[AnswerFacts]) -> list[Comparison]:
        """The groups that have all four."""
        groups = ({facts[number].side: number for number in numbers} for numbers in by_group(facts).values())
        return [tuple(sides[one] for one in SECOND_ANSWERS) for sides in groups if sides.keys() >= set(SECOND_ANSWERS)]

    def costs(self, scores: Scores, comparisons: Sequence[Comparison]) -> tuple[Tensor, Mapping[str, Tensor]]:
        """See `Scoring.costs`; margins in nats."""
        ratios = [column(scores.ratio, comparisons, place) for place in range(4)]
        after_good, after_bad = ratios[0] - ratios[1], ratios[2] - ratios[3]
        scale = self.settings.weight * self.settings.beta
        costs = (1 - scale * after_good - scale * after_bad).square()
        return costs, {"margin_after_good": after_good.detach(), "margin_after_bad": after_bad.detach()}
