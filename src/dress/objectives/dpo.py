"""dpo: of two answers to a question, the better one becomes likelier than at the stage's start, against the worse one.

-log sigmoid(beta (r_better - r_worse)), r the log-ratio to the stage's start (Rafailov et al., 2023, eq. 7); with label
smoothing e, (1 - e) of that and e of the reverse (Mitchell, 2023). By comparisons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations

from torch import Tensor
from torch.nn import functional as F

from dress import config
from dress.dialogue.spans import BETTER, WORSE, AnswerFacts
from dress.objectives.comparisons import Comparison, Scores, by_group, column


class Preference:
    """Compares (better, worse) answers."""

    figures = ("margin", "right_order")

    def __init__(self, settings: config.DPO) -> None:
        self.settings = settings

    def compared(self, facts: Sequence[AnswerFacts]) -> list[Comparison]:
        """Pairs of unlike ratings within a group; or the two sides of one."""
        pairs: list[Comparison] = []
        for numbers in by_group(facts).values():
            sides = {facts[number].side: number for number in numbers}
            if BETTER in sides and WORSE in sides:
                pairs.append((sides[BETTER], sides[WORSE]))
                continue
            ratings = {number: rating for number in numbers if (rating := facts[number].rating) is not None}
            if self.settings.pairs == "extremes" and ratings:
                ends = (max(ratings, key=ratings.__getitem__), min(ratings, key=ratings.__getitem__))
                ratings = {number: ratings[number] for number in ends}
            pairs += [pair for pair in permutations(ratings, 2) if ratings[pair[0]] > ratings[pair[1]]]
        return pairs

    def costs(self, scores: Scores, comparisons: Sequence[Comparison]) -> tuple[Tensor, Mapping[str, Tensor]]:
        """See `Scoring.costs`; `margin` in nats, times beta."""
        better, worse = (column(scores.ratio, comparisons, place) for place in (0, 1))
        margin, smoothing = self.settings.beta * (better - worse), self.settings.label_smoothing
        costs = -(1 - smoothing) * F.logsigmoid(margin) - smoothing * F.logsigmoid(-margin)
        return costs, {"margin": margin.detach(), "right_order": (margin.detach() > 0).double()}
