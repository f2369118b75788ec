"""Answers in token trees, as objectives that compare answers find them.

Shapes: A answers, M entries of theirs (an entry that several answers share is named by each), E entries of a forest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain

import numpy as np
import torch
from torch import Tensor

from dress.dialogue.spans import AnswerFacts


@dataclass(frozen=True, eq=False)
class TreeAnswer:
    """An answer of a tree: `entry` [M] of the tree's entries, in order, and the `weight` [M] of each (float64).

    `key` tells its tokens, with all that stands before them, from others of its record.
    """

    phase: str
    facts: AnswerFacts
    key: str
    entry: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers of a forest, in order of phase.

    `phase`, `facts` and `key` [A]; a group belongs to one tree. `answer` [M], ascending, says whose the `entry` [M] is
    that counts with `weight` [M] (float64).
    """

    phase: tuple[str, ...]
    facts: tuple[AnswerFacts, ...]
    key: tuple[str, ...]
    answer: Tensor
    entry: Tensor
    weight: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Answers:
        """The same with its tensors on a device."""
        names = ("answer", "entry", "weight")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=non_blocking) for name in names})

    def of_phase(self, phase: str) -> range:
        """Numbers of a phase's answers."""
        numbers = [number for number, name in enumerate(self.phase) if name == phase]
        return range(numbers[0], numbers[-1] + 1) if numbers else range(0)

    def sums(self, phase: str, log_probs: Tensor, entries: Tensor) -> Tensor:
        """Weighted log-probability of each answer of a phase, float64.

        Args:
            phase: a name.
            log_probs: of its entries.
            entries: which these are, ascending.
        """
        numbers = self.of_phase(phase)
        own = (self.answer >= numbers.start) & (self.answer < numbers.stop)
        place = torch.searchsorted(entries, self.entry[own])
        values = log_probs.double()[place] * self.weight[own]
        return values.new_zeros(len(numbers)).index_add(0, self.answer[own] - numbers.start, values)

    def tokens_of(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Entries and weights of some answers, one answer after another."""
        counts = torch.bincount(self.answer, minlength=len(self.phase)).tolist()
        starts = [0, *accumulate(counts)]
        where = [range(starts[number], starts[number + 1]) for number in numbers]
        places = torch.tensor(list(chain.from_iterable(where)), dtype=torch.long, device=self.entry.device)
        return self.entry[places], self.weight[places]


def joined(trees: Sequence[Sequence[TreeAnswer]], starts: Sequence[int], names: Sequence[str]) -> Answers | None:
    """Answers of a forest; None where no objective compares any.

    Args:
        trees: of each tree, its answers.
        starts: of each tree, its first entry in the forest.
        names: of each tree, that of its record, which is part of the keys.
    """
    every = [
        (answer, number, starts[number], names[number]) for number, answers in enumerate(trees) for answer in answers
    ]
    if not every:
        return None
    every.sort(key=lambda one: one[0].phase)
    sizes = torch.tensor([len(answer.entry) for answer, *_ in every])
    return Answers(
        phase=tuple(answer.phase for answer, *_ in every),
        facts=tuple(replace(answer.facts, group=f"{number}/{answer.facts.group}") for answer, number, *_ in every),
        key=tuple(f"{name} {answer.key}" for answer, _, _, name in every),
        answer=torch.repeat_interleave(torch.arange(len(every)), sizes),
        entry=torch.from_numpy(np.concatenate([answer.entry + start for answer, _, start, _ in every])),
        weight=torch.from_numpy(np.concatenate([answer.weight for answer, *_ in every])),
    )
