"""What a rater that follows rules found about an answer, and the natural wording of it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from dress.record import TOP_RATING, MarkedSpan

PRAISE = ("Excellent.", "Very good.", "Perfect.", "Well done.", "A fine answer.")
NOTHING_WRONG = (
    "Nothing is wrong with this answer.",
    "It is correct and complete.",
    "Everything in it is right.",
    "There is nothing to improve.",
)
KEEP = (
    "That is right. Say it again.",
    "Very good. Please say the same again.",
    "Correct. Keep that answer and say it again.",
)


@dataclass
class Judgement:
    """The rating of an answer, what to say about it, and the facts that metrics are made of.

    Args:
        rating: 1 to 4; 4 is best.
        good: sentences on what is good about the answer.
        bad: sentences on what is bad about it.
        advice: sentences that tell the model how to do better.
        facts: see `rater.Rater.rate`.
        spans: parts of the answer that are wrong.
    """

    rating: int
    good: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    spans: list[MarkedSpan] = field(default_factory=list)

    def critique(self, rng: random.Random) -> str:
        """What is good and bad about the answer, in wording that `rng` varies."""
        if self.rating == TOP_RATING:
            praise = f"{rng.choice(PRAISE)} {rng.choice(NOTHING_WRONG)}"
            return f"{praise} {rng.choice(self.good)}" if self.good and rng.random() < 0.25 else praise
        parts = [rng.choice(self.good)] if self.good and rng.random() < 0.5 else []
        return " ".join([*parts, *self.bad])

    def refinement(self, rng: random.Random) -> str:
        """How to do better, as the user would say it next."""
        return rng.choice(KEEP) if self.rating == TOP_RATING else " ".join(self.advice)
