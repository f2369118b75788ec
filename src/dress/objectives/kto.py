"""kto: wanted answers become likelier than at the stage's start, others less, measured from the model's drift.

w (1 - sigmoid(beta (r - z))) for wanted answers and u (1 - sigmoid(beta (z - r))) for the others, r the log-ratio to
the stage's start (Ethayarajh et al., 2024, eq. 7). z, without gradient and at least 0, is the mean log-ratio of
mismatched answers: each question of a step with the answer of another record. By answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dress import config
from dress.dialogue.spans import MISMATCHED, AnswerFacts
from dress.objectives.comparisons import Comparison, Scores, column


class Wanted:
    """Looks at each rated answer by itself."""

    figures = ("reward_wanted", "reward_unwanted", "drift")

    def __init__(self, settings: config.KTO) -> None:
        self.settings = settings

    def compared(self, facts: Sequence[AnswerFacts]) -> list[Comparison]:
        """Every answer with a rating."""
        return [(number,) for number, one in enumerate(facts) if one.rating is not None and one.side != MISMATCHED]

    def costs(self, scores: Scores, comparisons: Sequence[Comparison]) -> tuple[Tensor, Mapping[str, Tensor]]:
        """See `Scoring.costs`; rewards are beta times log-ratios, of answers of the other kind none."""
        assert scores.drift is not None
        ratio, settings = column(scores.ratio, comparisons, 0), self.settings
        ratings = [scores.facts[number].rating or 0 for (number,) in comparisons]
        is_wanted = torch.tensor([rating >= settings.min_rating for rating in ratings], device=ratio.device)
        sign = 2 * is_wanted.to(ratio) - 1
        weight = ratio.new_tensor([settings.unwanted_weight, settings.wanted_weight])[is_wanted.long()]
        costs = weight * (1 - torch.sigmoid(sign * settings.beta * (ratio - scores.drift)))
        reward, missing = settings.beta * ratio.detach(), torch.tensor(torch.nan).to(ratio)
        return costs, {
            "reward_wanted": torch.where(is_wanted, reward, missing),
            "reward_unwanted": torch.where(is_wanted, missing, reward),
            "drift": scores.drift.expand(len(ratio)),
        }
