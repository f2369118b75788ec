"""A pass over a forest in which some objective compares answers: its part of the step's loss, and what is logged of it.

Shapes: E entries of a forest, P phases of the stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from dress.dialogue.answers import Answers
from dress.dialogue.batch import Forest
from dress.dialogue.spans import MISMATCHED
from dress.model.states import States
from dress.objectives.comparing import Comparison, Scores
from dress.objectives.lm import add_sums, factors
from dress.objectives.stage import StageObjectives


@dataclass(frozen=True)
class Amounts:
    """What the losses of a whole step are divided by, over all forests and ranks."""

    tokens: Tensor  # [], float64: weight of what is learned by tokens
    comparisons: Mapping[str, float]  # of each phase that is learned by comparisons


class Figures:
    """Means of what the objectives of a stage tell of their comparisons, beside the cost.

    `values`: by `<phase>/<figure>`, sum and number.
    """

    def __init__(self, objectives: StageObjectives) -> None:
        names = (f"{phase}/{name}" for phase, one in objectives.scoring.items() for name in one.figures)
        self.values = {name: torch.zeros(2, dtype=torch.float64) for name in names}

    def copy(self) -> Figures:
        """With sums of its own."""
        other = copy(self)
        other.values = {name: one.clone() for name, one in self.values.items()}
        return other

    def means(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Over ranks, since the last call; figures that nothing was seen of are left out."""
        if not self.values:
            return {}
        sums = reduce(torch.stack(list(self.values.values()))).tolist()
        for one in self.values.values():
            one.zero_()
        return {name: total / count for name, (total, count) in zip(self.values, sums, strict=True) if count}


@dataclass
class Logged:
    """What a pass adds to: `sums` [3, P] as in `objectives.lm.add_sums`, `right` [P], `figures` as in `Figures`."""

    sums: Tensor
    right: Tensor
    figures: Mapping[str, Tensor]


class AnswerPasses:
    """The passes of a stage.

    Args:
        objectives: of the stage's phases.
        reference: log-probabilities of answers at the stage's start, by key.
    """

    def __init__(self, objectives: StageObjectives, reference: Mapping[str, float]) -> None:
        self.objectives, self.reference = objectives, reference
        self.phases = tuple(objectives.names)

    def amounts(self, forests: Sequence[Forest]) -> list[float]:
        """Of one rank: the weight that is learned by tokens, and the comparisons of each phase that has any."""
        tokens, counts = 0.0, dict.fromkeys(self.objectives.scoring, 0)
        for forest in forests:
            for number, phase in enumerate(forest.phases):
                if phase in counts:
                    counts[phase] += len(self._compared(forest.answers, phase))
                else:
                    tokens += float(forest.weight[forest.phase == number].sum())
        return [tokens, *map(float, counts.values())]

    def of_step(self, sums: Tensor) -> Amounts:
        """From the sums over ranks of `amounts`."""
        tokens, *counts = sums.tolist()
        return Amounts(
            torch.tensor(tokens or 1.0, dtype=torch.float64), dict(zip(self.objectives.scoring, counts, strict=True))
        )

    def drifts(self, forest: Forest, states: States) -> Tensor:
        """Sum and number of the log-ratios of mismatched answers [2, scoring phases], without gradient."""
        sums = torch.zeros(2, len(self.objectives.scoring), dtype=torch.float64)
        with torch.no_grad():
            for column, phase in enumerate(self.objectives.scoring):
                if phase in forest.phases and forest.answers is not None:
                    scores, *_ = self._scores(forest, forest.answers, phase, states)
                    other = torch.tensor([one.side == MISMATCHED for one in scores.facts])
                    ratios = scores.ratio.cpu()[other]
                    sums[0, column], sums[1, column] = ratios.sum(), len(ratios)
        return sums

    def loss(
        self, forest: Forest, states: States, amounts: Amounts, logged: Logged, drift: Tensor, teacher: States | None
    ) -> tuple[Tensor, Tensor]:
        """This forest's part of the step's loss, and each entry's negative log-likelihood [E] where it was computed.

        Args:
            forest: token trees.
            states: what the model made of them.
            amounts: of the step.
            logged: added to.
            drift: of the step, [2, scoring phases]; see `drifts`.
            teacher: what the teacher made of them, where it has other weights.
        """
        kind = torch.float64 if states.hidden.dtype == torch.float64 else torch.float32
        nll = torch.zeros(len(forest.target), dtype=kind, device=forest.target.device)
        parts = [0 * states.hidden.sum()]
        for number, phase in enumerate(forest.phases):
            entries = (forest.phase == number).nonzero()[:, 0]
            answers, column = forest.answers, self.phases.index(phase)
            if phase in self.objectives.scoring:
                assert answers is not None
                parts.append(self._compare(forest, answers, phase, states, amounts, logged, drift, nll))
            elif phase in self.objectives.distilling:
                assert answers is not None
                parts.append(self._distill(answers, phase, states, amounts, logged, teacher))
            else:
                likeliest = torch.zeros(len(entries), dtype=torch.bool, device=entries.device)
                weight = forest.weight[entries]
                part, nll[entries] = states.of_entries(entries).loss(
                    factors(weight, amounts.tokens.to(weight.device)), likeliest
                )
                parts.append(part)
                add_sums(logged.sums, nll[entries], weight, torch.full((len(entries),), column))
                logged.right[column] += float((likeliest & (weight > 0)).sum())
        return torch.stack([part.to(kind) for part in parts]).sum(), nll

    def _compared(self, answers: Answers | None, phase: str) -> list[Comparison]:
        if answers is None:
            return []
        numbers = answers.of_phase(phase)
        return self.objectives.comparing[phase].compared(answers.facts[numbers.start : numbers.stop])

    def _scores(
        self, forest: Forest, answers: Answers, phase: str, states: States, drift: Tensor | None = None
    ) -> tuple[Scores, Tensor, Tensor, Tensor]:
        """Of a phase's answers; and its entries, their log-probabilities, and whether nothing is more probable."""
        entries = (forest.phase == forest.phases.index(phase)).nonzero()[:, 0]
        values, best = states.of_entries(entries).log_probs()
        numbers = answers.of_phase(phase)
        sums = answers.sums(phase, values, entries)
        known = [self.reference[key] for key in answers.key[numbers.start : numbers.stop]]
        facts = answers.facts[numbers.start : numbers.stop]
        return Scores(sums, torch.tensor(known).to(sums), facts, drift), entries, values, best

    def _compare(
        self, forest: Forest, answers: Answers, phase: str, states: States, amounts: Amounts, logged: Logged,
        drift: Tensor, nll: Tensor,
    ) -> Tensor:  # fmt: skip
        objective, comparisons = self.objectives.scoring[phase], self._compared(answers, phase)
        place = list(self.objectives.scoring).index(phase)
        total, count = drift[:, place].tolist()
        mean = torch.tensor(max(0.0, total / count) if count else 0.0, dtype=torch.float64, device=nll.device)
        scores, entries, values, best = self._scores(forest, answers, phase, states, mean)
        costs, figures = objective.costs(scores, comparisons)
        nll[entries] = -values.detach().to(nll)
        column, learned = self.phases.index(phase), forest.weight[entries] > 0
        logged.sums[:, column] += torch.tensor([float(costs.detach().sum()), len(costs), float(learned.sum())])
        logged.right[column] += float((best & learned).sum())
        for name, one in figures.items():
            seen = one[~one.isnan()].cpu()
            logged.figures[f"{phase}/{name}"].add_(torch.tensor([float(seen.sum()), len(seen)]))
        return self.objectives.shares[phase] * costs.sum() / amounts.comparisons[phase]

    def _distill(
        self, answers: Answers, phase: str, states: States, amounts: Amounts, logged: Logged, teacher: States | None
    ) -> Tensor:
        first, settings = answers.of_phase(phase).start, self.objectives.distilling[phase].settings
        pairs = self._compared(answers, phase)
        student, weight = answers.tokens_of([first + one for one, _ in pairs])
        goal, _ = answers.tokens_of([first + two for _, two in pairs])
        values = states.divergences(student, goal, settings.divergence, settings.top_k, teacher).double()
        cost = (weight * values).sum()
        column = self.phases.index(phase)
        logged.sums[:, column] += torch.tensor([float(cost.detach()), float(weight.sum()), float((weight > 0).sum())])
        return cost / amounts.tokens.to(cost.device)
