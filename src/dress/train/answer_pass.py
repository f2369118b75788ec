"""A pass over a forest in which some objective compares answers: its part of the step's loss, and what is logged of it.

Shapes: E entries of a forest, P phases of the stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dress.dialogue.answers import Answers
from dress.dialogue.batch import Forest
from dress.dialogue.spans import MISMATCHED
from dress.model.states import States
from dress.objectives.comparisons import Comparison, Scores
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

    def add(self, phase: Tensor, nll: Tensor, weight: Tensor, likeliest: Tensor) -> None:
        """Add entries that are learned token by token.

        Args:
            phase: [E], on the CPU: which column each belongs to.
            nll: [E], in nats.
            weight: [E], float64.
            likeliest: [E], whether nothing is more probable.
        """
        add_sums(self.sums, nll, weight, phase)
        self.right.scatter_add_(0, phase, (likeliest & (weight > 0)).double().cpu())


@dataclass(frozen=True, eq=False)
class Scored:
    """A phase's answers in a forest: `scores`, and of the phase's `entries` [K], ascending, the log-probabilities and
    whether nothing is more probable (`best`)."""

    scores: Scores
    entries: Tensor
    log_probs: Tensor
    best: Tensor


@dataclass(frozen=True, eq=False)
class Pass:
    """What a model made of a forest, the scores by phase, and what a teacher with other weights made of it."""

    states: States
    scored: Mapping[str, Scored]
    teacher: States | None = None


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

    def scored(self, forest: Forest, states: States) -> dict[str, Scored]:
        """Log-probabilities of the answers of each phase that is learned by comparisons."""
        if forest.answers is None:  # it is blank
            return {}
        phases = [phase for phase in forest.phases if phase in self.objectives.scoring]
        return {phase: self._of_phase(forest, forest.answers, phase, states) for phase in phases}

    def drifts(self, scored: Mapping[str, Scored]) -> Tensor:
        """Sum and number of the log-ratios of mismatched answers [2, scoring phases], without gradient."""
        sums = torch.zeros(2, len(self.objectives.scoring), dtype=torch.float64)
        for column, phase in enumerate(self.objectives.scoring):
            if phase in self.objectives.mismatching and phase in scored:
                scores = scored[phase].scores
                other = torch.tensor([one.side == MISMATCHED for one in scores.facts])
                ratios = scores.ratio.detach().cpu()[other]
                sums[0, column], sums[1, column] = ratios.sum(), len(ratios)
        return sums

    def drifts_alone(self, forest: Forest, states: States) -> tuple[Tensor, Tensor]:
        """`drifts` of a forest, twice: what reads a model's states gives two tensors."""
        sums = self.drifts(self.scored(forest, states))
        return sums, sums

    def loss(
        self, forest: Forest, outputs: Pass, amounts: Amounts, drift: Tensor, logged: Logged
    ) -> tuple[Tensor, Tensor]:
        """This forest's part of the step's loss, and each entry's negative log-likelihood [E]; 0 where it has none.

        Args:
            forest: token trees.
            outputs: of the model for them.
            amounts: of the step.
            drift: of the step, [2, scoring phases]; see `drifts`.
            logged: added to.
        """
        states = outputs.states
        kind = torch.float64 if states.hidden.dtype == torch.float64 else torch.float32
        nll = torch.zeros(len(forest.target), dtype=kind, device=forest.target.device)
        parts = [self._learn(forest, states, amounts, logged, nll)]
        for phase, scored in outputs.scored.items():
            nll[scored.entries] = -scored.log_probs.detach().to(nll)
            parts.append(self._compare(phase, scored, forest.weight[scored.entries] > 0, amounts, drift, logged))
        for phase in forest.phases:
            if phase in self.objectives.distilling and forest.answers is not None:
                parts.append(self._distill(phase, forest.answers, outputs, amounts, logged))
        return torch.stack([part.to(kind) for part in parts]).sum(), nll

    def _learn(self, forest: Forest, states: States, amounts: Amounts, logged: Logged, nll: Tensor) -> Tensor:
        """The part of what is learned token by token; writes to `nll`."""
        alone = torch.tensor([phase not in self.objectives.comparing for phase in forest.phases], device=nll.device)
        entries = alone[forest.phase].nonzero()[:, 0]
        if not len(entries):  # a blank pass reaches what others reach
            reached = states.hidden.sum() if forest.answers else states.hidden.sum() + states.weight.sum()
            return 0 * reached
        weight, likeliest = forest.weight[entries], torch.zeros(len(entries), dtype=torch.bool, device=nll.device)
        factor = factors(weight, amounts.tokens.to(nll.device))
        loss, nll[entries] = states.of_entries(entries).loss(factor, likeliest)
        logged.add(forest.columns(self.phases)[entries.cpu()], nll[entries], weight, likeliest)
        return loss

    def _compared(self, answers: Answers | None, phase: str) -> list[Comparison]:
        if answers is None:
            return []
        numbers = answers.of_phase(phase)
        return self.objectives.comparing[phase].compared(answers.facts[numbers.start : numbers.stop])

    def _of_phase(self, forest: Forest, answers: Answers, phase: str, states: States) -> Scored:
        entries = (forest.phase == forest.phases.index(phase)).nonzero()[:, 0]
        values, best = states.of_entries(entries).log_probs()
        numbers = answers.of_phase(phase)
        sums = answers.sums(phase, values, entries)
        known = [self.reference[key] for key in answers.key[numbers.start : numbers.stop]]
        scores = Scores(sums, sums.new_tensor(known), answers.facts[numbers.start : numbers.stop])
        return Scored(scores, entries, values, best)

    def _compare(
        self, phase: str, scored: Scored, learned: Tensor, amounts: Amounts, drift: Tensor, logged: Logged
    ) -> Tensor:
        objective, scores = self.objectives.scoring[phase], scored.scores
        total, count = drift[:, list(self.objectives.scoring).index(phase)].tolist()
        mean = scores.log_prob.new_tensor(max(0.0, total / count) if count else 0.0)
        comparisons = objective.compared(scores.facts)
        costs, figures = objective.costs(replace(scores, drift=mean), comparisons)
        column = self.phases.index(phase)
        amount = [float(costs.detach().sum()), len(costs), float(learned.sum())]
        logged.sums[:, column] += logged.sums.new_tensor(amount)
        logged.right[column] += float((scored.best & learned).sum())
        for name, one in figures.items():
            seen, sums = one[~one.isnan()].cpu(), logged.figures[f"{phase}/{name}"]
            sums += sums.new_tensor([float(seen.sum()), len(seen)])
        return self.objectives.shares[phase] * costs.sum() / max(1.0, amounts.comparisons[phase])

    def _distill(self, phase: str, answers: Answers, outputs: Pass, amounts: Amounts, logged: Logged) -> Tensor:
        first, settings = answers.of_phase(phase).start, self.objectives.distilling[phase].settings
        pairs = self._compared(answers, phase)
        student, weight = answers.tokens_of([first + one for one, _ in pairs])
        goal, _ = answers.tokens_of([first + two for _, two in pairs])
        values = outputs.states.divergences(student, goal, settings.divergence, settings.top_k, outputs.teacher)
        cost = (weight * values.double()).sum()
        amount = [float(cost.detach()), float(weight.sum()), len(student.unique())]
        logged.sums[:, self.phases.index(phase)] += logged.sums.new_tensor(amount)
        return cost / amounts.tokens.to(cost.device)
