"""A projector as the two linear layers with an activation between them that classes of transformers have.

Shapes: D_v width of the encoder, D of the language model.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dress.model.projector import MLP, Pooling


class NoSuchProjector(ValueError):
    """No class of transformers holds this projector; says why."""


@dataclass(frozen=True)
class Projection:
    """linear_2(activation(linear_1(x))), then means over squares of `pooling` x `pooling` tokens.

    Attributes:
        weights: `linear_1.weight`, …
        activation: by transformers' name.
        pooling: 1 where there is none.
    """

    weights: dict[str, Tensor] = field(repr=False)
    activation: str
    pooling: int = 1


def projection(projector: nn.Module, weights: dict[str, Tensor]) -> Projection:
    """Two layers that compute what a projector does.

    A linear map W x is [W, -W] gelu([x, -x]), since gelu(x) - gelu(-x) = x: exact, and in a form that servers know,
    where the language model is at least twice as wide as the encoder.

    Args:
        projector: of the model.
        weights: its state.

    Raises:
        NoSuchProjector: it is another module.
    """
    if isinstance(projector, Pooling):
        return Projection(_two(weights), "gelu", projector.factor)
    if type(projector) is MLP:
        return Projection(_two(weights), "gelu")
    if type(projector) is nn.Linear:
        weight = weights["weight"]
        out, width = weight.shape
        bias = weights.get("bias", weight.new_zeros(out))
        if out < 2 * width:
            identity = {"linear_2.weight": torch.eye(out, dtype=weight.dtype), "linear_2.bias": torch.zeros_like(bias)}
            return Projection({"linear_1.weight": weight, "linear_1.bias": bias, **identity}, "linear")
        one = torch.eye(width, dtype=weight.dtype)
        first = torch.cat([one, -one, weight.new_zeros(out - 2 * width, width)])
        second = torch.cat([weight, -weight, weight.new_zeros(out, out - 2 * width)], 1)
        return Projection(
            {
                "linear_1.weight": first, "linear_1.bias": torch.zeros_like(bias),
                "linear_2.weight": second, "linear_2.bias": bias,
            },
            "gelu",
        )  # fmt: skip
    raise NoSuchProjector(f"{type(projector).__name__}: neither linear, nor two linear layers with GELU, nor Pooling")


def _two(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {"0.weight": "linear_1.weight", "0.bias": "linear_1.bias"}
    names |= {"2.weight": "linear_2.weight", "2.bias": "linear_2.bias"}
    return {own: weights[name] for name, own in names.items()}
