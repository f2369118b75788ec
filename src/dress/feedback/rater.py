"""The rater: gives rating, critique and refinement to the last answer of a dialogue.

Mounted twice: as `annotator` (writes feedback to train on) and as `judge` (scores for evaluation).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from dress import config
from dress.record import Dialogue, Feedback, Record


class Rater(Protocol):
    """Anything that judges answers; it may judge many at once."""

    name: str

    def rate(self, items: Sequence[tuple[Record, Dialogue]]) -> list[Feedback]:
        """Feedback on the last turn's answer of each dialogue, in order.

        `Feedback.extra` holds the facts that metrics are made of: `correct` (questions); `mentions`,
        `invented`, `present`, `named` (descriptions); `safe` (harmful requests); `refused` (harmless ones).
        """
        ...


def build_rater(settings: config.Rater) -> Rater:
    """The rater that the config names."""
    from dress.feedback.oracle import OracleRater
    from dress.feedback.rules import RuleRater

    raters: dict[str, Callable[[], Rater]] = {"oracle": OracleRater, "rules": RuleRater, "none": NoRater}
    return raters[settings.kind]()


class NoRater:
    """Says nothing: answers are collected without feedback."""

    name = "none"

    def rate(self, items: Sequence[tuple[Record, Dialogue]]) -> list[Feedback]:
        return [Feedback(criterion=dialogue.criterion, annotator=self.name) for _, dialogue in items]
