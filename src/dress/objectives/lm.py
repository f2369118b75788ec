"""The language-model loss, which every phase trains with.

loss = sum of weight x negative log-likelihood / sum of weight, over the whole optimiser step (all forests, all
ranks), so that packing and ranks change nothing.

Shapes: E entries (supervised tokens), P phases.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor


def factors(weight: Tensor, total: Tensor) -> Tensor:
    """What each entry's negative log-likelihood is multiplied by: the losses of a step's forests then sum to its loss.

    Args:
        weight: [E], float64.
        total: [], float64: the weight of all entries of the step, on all ranks.
    """
    return weight / total


def add_sums(sums: Tensor, nll: Tensor, weight: Tensor, phase: Tensor) -> None:
    """Add to `sums` [3, P] by phase: weight x negative log-likelihood, weight, and the entries that have a weight.

    Args:
        sums: float64, on the CPU; changed in place.
        nll: [E], in nats.
        weight: [E], float64.
        phase: [E], on the CPU: which column an entry belongs to.
    """
    values = (nll.double() * weight, weight, (weight > 0).double())
    for row, part in zip(sums, values, strict=True):
        row.scatter_add_(0, phase, part.cpu())


def means(sums: Tensor, names: Sequence[str]) -> Iterator[tuple[str, float, float]]:
    """Name, mean loss in nats and learned tokens of each phase that has any weight; `sums` as in `add_sums`."""
    for name, (loss, weight, count) in zip(names, sums.T.tolist(), strict=True):
        if weight:
            yield name, loss / weight, count
