"""Hidden states of what a forest supervises, and what the head makes of them for an objective, in chunks.

Only the loss of `lm` is turned into its gradient at once (`model.head`). Where a loss is known only when the
log-probabilities of several answers are, each chunk of logits is dropped and made again in the backward pass.

Shapes: U rows, D width, V vocabulary, E entries, K of them that are asked for, M pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dress.kernels.fused import out_dtype
from dress.model import head

Divergence = Literal["forward", "reverse", "js"]


@dataclass(frozen=True, eq=False)
class States:
    """What a pass has made of a forest.

    `hidden` [U, D], rows that predict something; `weight` [V, D] of the head; `where` [E], the row of an entry;
    `target` [E]; `softcap` of the logits.
    """

    hidden: Tensor
    weight: Tensor
    where: Tensor
    target: Tensor
    softcap: float | None

    def loss(self, factor: Tensor, likeliest: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Sum of factor x negative log-likelihood, and each entry's own; see `head.head_loss`."""
        return head.head_loss(self.hidden, self.weight, self.where, self.target, factor, self.softcap, likeliest)

    def of_entries(self, entries: Tensor) -> States:
        """Of some entries [K] alone."""
        rows, where = torch.unique(self.where[entries], return_inverse=True)
        return States(self.hidden[rows], self.weight, where, self.target[entries], self.softcap)

    def detached(self) -> States:
        """The same as numbers, which nothing changes."""
        return States(self.hidden.detach(), self.weight.detach(), self.where, self.target, self.softcap)

    def log_probs(self) -> tuple[Tensor, Tensor]:
        """Log-probability of each entry [E] in nats, differentiable, and whether nothing is more probable [E]."""

        def chunk(hidden: Tensor, weight: Tensor, at: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
            logits = self._logits(hidden, weight)
            values = logits[at, goal] - logits.logsumexp(-1)[at]
            return values, (logits[at, goal] >= logits.amax(-1)[at]).detach()

        order = self.where.argsort(stable=True)
        counts = torch.bincount(self.where, minlength=len(self.hidden)).tolist()
        values, best, first = [], [], 0
        for start, stop in self._chunks(len(self.hidden)):
            entries = order[first : first + sum(counts[start:stop])]
            first += len(entries)
            one, two = _again(
                chunk, self.hidden[start:stop], self.weight, self.where[entries] - start, self.target[entries]
            )
            values.append(one)
            best.append(two)
        back = order.argsort()
        return torch.cat(values)[back], torch.cat(best)[back]

    def divergences(
        self, student: Tensor, teacher: Tensor, kind: Divergence, top_k: int | None = None, source: States | None = None
    ) -> Tensor:
        """How far the distribution of one entry's row is from that of another, [M] in nats, with gradient to `student`.

        Args:
            student: [M] entries.
            teacher: [M] entries; a fixed goal.
            kind: `forward` is KL(teacher, student), `reverse` KL(student, teacher), `js` Jensen and Shannon's.
            top_k: only the teacher's likeliest tokens are told apart, all others are one; None: all are.
            source: the pass that the teacher's distributions come from; None for this one.
        """
        source = self if source is None else source

        def chunk(mine: Tensor, weight: Tensor, theirs: Tensor) -> tuple[Tensor, ...]:
            with torch.no_grad():
                goal = source._logits(theirs, source.weight)
            return (divergence(self._logits(mine, weight), goal, kind, top_k),)

        mine, theirs = self.where[student], source.where[teacher]
        values = [
            _again(chunk, self.hidden[mine[start:stop]], self.weight, source.hidden[theirs[start:stop]].detach())[0]
            for start, stop in self._chunks(2 * len(student), len(student))
        ]
        return torch.cat(values) if values else self.hidden.new_zeros(0, dtype=self._wide)

    @property
    def _wide(self) -> torch.dtype:
        return torch.float64 if self.hidden.dtype == torch.float64 else torch.float32

    def _logits(self, hidden: Tensor, weight: Tensor) -> Tensor:
        dtype = out_dtype(hidden)
        logits = F.linear(hidden.to(dtype), weight.to(dtype)).to(self._wide)
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap

    def _chunks(self, rows: int, items: int | None = None) -> Iterator[tuple[int, int]]:
        """Ranges of so many items (rows, if none are named) that together have `head.CHUNK` logits at most."""
        items = rows if items is None else items
        chunks = max(1, -(-rows * len(self.weight) // head.CHUNK))
        size = max(1, -(-items // chunks))
        for start in range(0, items, size):
            yield start, min(start + size, items)


def divergence(student: Tensor, teacher: Tensor, kind: Divergence, top_k: int | None) -> Tensor:
    """Divergence [M] of the distributions of logits [M, V]; see `States.divergences`."""
    ours, theirs = student.log_softmax(-1), teacher.log_softmax(-1)
    if top_k is not None and top_k < theirs.shape[-1]:
        theirs, tokens = theirs.topk(top_k, -1)
        ours, theirs = _with_rest(ours.gather(-1, tokens)), _with_rest(theirs)
    match kind:
        case "forward":
            return (theirs.exp() * (theirs - ours)).sum(-1)
        case "reverse":
            return (ours.exp() * (ours - theirs)).sum(-1)
        case "js":
            middle = torch.logaddexp(ours, theirs) - torch.tensor(2.0, dtype=ours.dtype).log()
            return ((ours.exp() * (ours - middle)).sum(-1) + (theirs.exp() * (theirs - middle)).sum(-1)) / 2


def _with_rest(log_probs: Tensor) -> Tensor:
    """Some tokens' log-probabilities [M, K], and behind them that of all others together."""
    most = -torch.finfo(log_probs.dtype).eps
    rest = torch.log(-torch.expm1(log_probs.logsumexp(-1, keepdim=True).clamp(max=most)))
    return torch.cat([log_probs, rest], -1)


def _again(chunk: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
    """What a chunk gives, whose logits are made again in the backward pass."""
    if not torch.is_grad_enabled():
        return chunk(*tensors)
    result: tuple[Tensor, ...] = checkpoint(chunk, *tensors, use_reentrant=False, preserve_rng_state=False)
    return result
