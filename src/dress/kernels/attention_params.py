"""What a layer's attention is beside its queries, keys and values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AttentionParams:
    """Parameters of a layer's attention; by default plain attention.

    Attributes:
        scale: of the products of queries and keys; None is d ** -0.5 (d is the width of a head).
        window: tokens that are seen at most, itself included, counted by depth; None is all.
        softcap: scores become softcap * tanh(scores / softcap); None leaves them as they are.
    """

    scale: float | None = None
    window: int | None = None
    softcap: float | None = None

    def scale_of(self, width: int) -> float:
        """The scale for heads of this width."""
        return width**-0.5 if self.scale is None else self.scale
