"""The floor: floating-point operations that a training step on a tuple cannot do without.

Only unique tokens count. Padding, tokens that stand in several rows, and what is computed a second
time in the backward pass are work, not use.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dress.dialogue.tree import Tree


@dataclass(frozen=True)
class Sizes:
    """Of a decoder with a gated MLP and grouped keys."""

    layers: int
    width: int
    inner: int
    heads: int
    key_heads: int
    vocabulary: int

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def body(self) -> int:
        """Parameters in matrix products of the layers."""
        keys = self.key_heads * self.head_width
        return self.layers * (2 * self.width**2 + 2 * self.width * keys + 3 * self.width * self.inner)


SMOLLM2_135M = Sizes(layers=30, width=576, inner=1536, heads=9, key_heads=3, vocabulary=49152)


def floor(sizes: Sizes, trees: list[Tree], full: bool = True) -> float:
    """Operations of forward and backward pass over trees.

    Args:
        sizes: of the language model; vision and optimiser are left out.
        trees: what is learned.
        full: every weight is trained; else only adapters are, whose own work is left out.
    """
    tokens = sum(len(tree) for tree in trees)
    rows = sum(len(np.unique(tree.row)) for tree in trees)
    pairs = sum(int((tree.depth + 1).sum()) for tree in trees)
    body = 2 * sizes.body * tokens
    attention = 4 * sizes.layers * sizes.width * pairs
    head = 2 * sizes.width * sizes.vocabulary * rows
    forward = body + attention + head
    weights = body + head if full else 0
    return float(forward + body + 2 * attention + head + weights)
