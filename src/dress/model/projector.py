"""From the encoder's space to the language model's: one linear layer as in the paper (`torch.nn.Linear`), or an MLP."""

from __future__ import annotations

from torch import nn


class MLP(nn.Sequential):
    """Two linear layers as in LLaVA-1.5: [..., width_in] to [..., width_out]."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__(nn.Linear(width_in, width_out), nn.GELU(), nn.Linear(width_out, width_out))
