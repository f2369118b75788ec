"""Weights of linear layers in oneDNN's own layout, for generation on CPU.

A product of few rows with a large matrix costs what reading the matrix costs. In its plain layout MKL and
oneDNN read SmolLM2's matrices for 8 rows about half as fast as in the blocked one.
"""

from __future__ import annotations

from functools import cache, partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from dress.kernels.memory import SHARE, free_bytes

SMALLEST = 100_000
"""Numbers of a matrix: below it the operator's own time is larger than the gain."""


class PackedWeights:
    """Within the context, linear layers of a module multiply by packed copies of their weights.

    The copies are made when the context is first entered, and are as old as that: weights that change
    need a new `PackedWeights`. Away from the CPU, or where memory has no room for the copies, nothing is done.
    """

    def __init__(self, module: nn.Module) -> None:
        self._layers = [
            layer for layer in module.modules()
            if type(layer) is nn.Linear and "forward" not in vars(layer) and _fits(layer.weight)
        ]  # fmt: skip
        size = sum(layer.weight.numel() * layer.weight.element_size() for layer in self._layers)
        if self._layers and size > SHARE * free_bytes(self._layers[0].weight.device):
            self._layers = []
        self._products: list[Any] = []

    def __enter__(self) -> None:
        if not self._products:
            self._products = [
                partial(
                    _product,
                    torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach()),
                    None if layer.bias is None else layer.bias.detach().to(layer.weight.dtype),
                )
                for layer in self._layers
            ]
        for layer, product in zip(self._layers, self._products, strict=True):
            layer.forward = product  # type: ignore[method-assign]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for layer in self._layers:
            del layer.forward


def _product(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """x [..., D] is multiplied in the weight's type, as under autocast."""
    return torch.ops.mkldnn._linear_pointwise(x.to(weight.dtype), weight, bias, "none", [], "")


def _fits(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.numel() >= SMALLEST and packs(weight.dtype)


@cache
def packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN packs and multiplies matrices of this type here: a small one is tried.

    It refuses bf16 on x86-64 without AVX512 (or AVX-NE-CONVERT), and other builds and CPUs refuse more. Its
    own answer comes from the CPU and `ONEDNN_MAX_CPU_ISA`; for what is allowed, a product says most.
    """
    if dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return False
    try:
        with torch.inference_mode():
            weight = torch.ops.mkldnn._reorder_linear_weight(torch.ones(16, 32, dtype=dtype))
            return bool((_product(weight, None, torch.ones(2, 32, dtype=dtype)) == 32).all())
    except (AttributeError, NotImplementedError, RuntimeError):
        return False
