"""What objectives that compare answers have in common.

Shapes: A answers of a phase in a forest, C comparisons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from dress.dialogue.spans import AnswerFacts

Comparison = tuple[int, ...]
"""Numbers of answers, each in the place that its objective knows it by."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Of a phase's answers in a forest: log-probabilities [A] in nats, float64, with gradient, and facts.

    `reference` [A]: the same of the stage's start. `drift`: mean log-ratio of the mismatched answers of a whole step.
    """

    log_prob: Tensor
    reference: Tensor
    facts: Sequence[AnswerFacts]
    drift: Tensor | None = None

    @property
    def ratio(self) -> Tensor:
        """Log-ratio of the model to the stage's start, [A]."""
        return self.log_prob - self.reference


class Comparing(Protocol):
    """An objective that compares answers."""

    def compared(self, facts: Sequence[AnswerFacts]) -> list[Comparison]:
        """Which answers are compared; a group that has nothing to compare gives none."""
        ...


@runtime_checkable
class Scoring(Comparing, Protocol):
    """One that compares log-probabilities of whole answers with those of the stage's start."""

    figures: tuple[str, ...]
    """What it tells of each comparison, beside the cost."""

    def costs(self, scores: Scores, comparisons: Sequence[Comparison]) -> tuple[Tensor, Mapping[str, Tensor]]:
        """What each comparison costs [C], with gradient, and its figures by name [C], without."""
        ...


def by_group(facts: Sequence[AnswerFacts]) -> dict[str, list[int]]:
    """Numbers of the answers of each group, in order."""
    groups: dict[str, list[int]] = {}
    for number, one in enumerate(facts):
        groups.setdefault(one.group, []).append(number)
    return groups


def column(scores: Tensor, comparisons: Sequence[Comparison], place: int) -> Tensor:
    """The scores [C] of the answers that stand at one place of each comparison."""
    return scores[[one[place] for one in comparisons]]
