"""An image among a dialogue's tokens, and as a model takes it.

Shapes: A image tokens of one image, P numbers of a position (3 for multi-dimensional RoPE, else 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

FEATURES = "features"
"""Name among a picture's inputs of features that were stored, in place of pixels."""


@dataclass(frozen=True, eq=False)
class ImageLayout:
    """The tokens that stand for one image.

    Attributes:
        parts: in order, how many image tokens stand in a run, and the control text between runs (tiles, rows).
        positions: int64 [P, A], counted from where the image begins; None: one further with every token.
        advance: how far behind the image's beginning the text goes on; counts where `positions` are given.
        block: whether the image tokens of a run see each other, those behind them too.
    """

    parts: tuple[str | int, ...]
    positions: np.ndarray | None = None
    advance: int = 0
    block: bool = False

    @property
    def tokens(self) -> int:
        """A, without control text."""
        return sum(part for part in self.parts if isinstance(part, int))


@dataclass(frozen=True, eq=False)
class Picture:
    """One image, read and resized: what the encoder takes, by name, and its layout.

    The first axis of each tensor is that along which images are joined into one call: images, tiles or patches.
    """

    inputs: dict[str, Tensor]
    layout: ImageLayout

    def blank(self) -> Picture:
        """As many tokens, and nothing to see: every pixel has the encoder's mean colour."""
        return replace(self, inputs=blank_inputs(self.inputs))


def blank_inputs(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Normalised pixels become zero; sizes and masks, which are no real numbers, stay."""
    return {name: torch.zeros_like(one) if one.is_floating_point() else one for name, one in inputs.items()}
