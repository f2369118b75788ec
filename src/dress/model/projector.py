"""From the encoder's space to the language model's: one linear layer as in the paper, or an MLP."""

from __future__ import annotations

from torch import nn


def build_projector(kind: str, width_in: int, width_out: int) -> nn.Module:
    """[..., width_in] to [..., width_out]; `kind` is linear (paper §3.1) or mlp (as LLaVA-1.5)."""
    if kind == "linear":
        return nn.Linear(width_in, width_out)
    return nn.Sequential(nn.Linear(width_in, width_out), nn.GELU(), nn.Linear(width_out, width_out))
