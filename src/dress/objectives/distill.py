"""distill: what the model says without feedback becomes what it says with it, token by token of one answer.

The sum over tokens of a divergence between the model's distribution after the question and that after question and
feedback, which is a fixed goal (Hübotter et al., 2026: SDPO, arXiv 2601.20802). Both stand in one token tree. The
teacher has the weights that learn, or their moving average. By tokens, beside those of `lm`.
"""

from __future__ import annotations

from collections.abc import Sequence

from dress import config
from dress.dialogue.spans import STUDENT, TEACHER, AnswerFacts
from dress.objectives.comparisons import Comparison, by_group


class Distillation:
    """Compares (student, teacher): the same answer twice, whose tokens' divergences are the costs."""

    def __init__(self, settings: config.Distill) -> None:
        self.settings = settings

    def compared(self, facts: Sequence[AnswerFacts]) -> list[Comparison]:
        """The groups that have both."""
        groups = ({facts[number].side: number for number in numbers} for numbers in by_group(facts).values())
        return [(sides[STUDENT], sides[TEACHER]) for sides in groups if sides.keys() >= {STUDENT, TEACHER}]
