"""Language models whose matrices are held in 4 or 8 bits while adapters learn beside them (QLoRA, arXiv 2305.14314).

bitsandbytes packs and unpacks. Every product, in training and in answering, is one with the unpacked matrix in the
precision around it, so that answers come from the numbers that were trained with; bitsandbytes' own layers round
activations too (int8), or multiply in bf16 by matrices that they pack anew (nf4, on CPUs that have bf16).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from dress import config
from dress.kernels.fused import out_dtype

Sample = tuple[tuple[int, ...], Tensor]


def check_quantization(kind: config.Quantize | None) -> None:
    """Refuse to quantise where nothing is installed that packs.

    Raises:
        ValueError: names it.
    """
    if kind is not None and find_spec("bitsandbytes") is None:
        raise ValueError(f'model.quantize={kind}: bitsandbytes is not installed; pip install -e ".[quantize]"')


class QuantizedLinear(nn.Linear):
    """A linear layer [.., in] -> [.., out] whose matrix is packed, and never trained.

    Args:
        layer: its matrix is packed, on its device; its bias stays.

    Attributes:
        original: shape, and a few numbers, of the matrix that was packed.
    """

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = layer.in_features, layer.out_features, layer.bias
        self.original: Sample = tuple(layer.weight.shape), few_numbers(layer.weight)
        self.weight = nn.Parameter(self._pack(layer.weight.detach()), requires_grad=False)

    def _pack(self, weight: Tensor) -> Tensor:
        raise NotImplementedError

    def matrix(self) -> Tensor:
        """The matrix that is multiplied by, unpacked: [out, in]."""
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizedLinear:
        """Scales move along, and are in no other precision than their own."""
        super()._apply(fn, recurse)
        self._move(self.weight.device)
        return self

    def _move(self, device: torch.device) -> None:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Linear`; the unpacked matrix is not kept for the backward pass."""
        dtype = out_dtype(x)
        out: Tensor = _Product.apply(x.to(dtype), self.matrix)
        return out if self.bias is None else out + self.bias.to(dtype)


class _Product(torch.autograd.Function):
    """x [.., in] times an unpacked matrix that is made again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Callable[[], Tensor]) -> Tensor:
        ctx.matrix = matrix
        return F.linear(x, matrix().to(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad @ ctx.matrix().to(grad.dtype), None


class NF4Linear(QuantizedLinear):
    """Blocks of 64 numbers, each of 4 bits, whose scales are quantised too."""

    def _pack(self, weight: Tensor) -> Tensor:
        from bitsandbytes.functional import quantize_4bit

        packed: Tensor
        packed, self._scales = quantize_4bit(weight.contiguous(), quant_type="nf4", compress_statistics=True)
        return packed

    def matrix(self) -> Tensor:
        """See `QuantizedLinear.matrix`."""
        from bitsandbytes.functional import dequantize_4bit

        unpacked: Tensor = dequantize_4bit(self.weight, self._scales)
        return unpacked

    def _move(self, device: torch.device) -> None:
        self._scales.to(device)  # in place


class Int8Linear(QuantizedLinear):
    """Rows of 8 bits with a scale each."""

    def _pack(self, weight: Tensor) -> Tensor:
        from bitsandbytes.functional import int8_vectorwise_quant

        packed, scales, _ = int8_vectorwise_quant(weight.half())
        self._scales = scales.float()[:, None] / 127
        return Tensor(packed)

    def matrix(self) -> Tensor:
        """See `QuantizedLinear.matrix`."""
        return self.weight * self._scales

    def _move(self, device: torch.device) -> None:
        self._scales = self._scales.to(device)


KINDS: dict[config.Quantize, type[QuantizedLinear]] = {"nf4": NF4Linear, "int8": Int8Linear}


def quantize(language: nn.Module, kind: config.Quantize, where: str) -> None:
    """Pack the linear maps of a language model's layers, one after another; embeddings and head stay as they are.

    Args:
        language: with the weights of its files.
        kind: how.
        where: names the model in an error.

    Raises:
        ValueError: it has no linear layers.
    """
    names = [name for name, one in language.named_modules() if type(one) is nn.Linear and in_layer(name)]
    if not names or any(isinstance(one, Conv1D) for one in language.modules()):
        raise ValueError(f"model.quantize={kind}: expected linear layers (torch.nn.Linear), got none in {where}")
    for name in names:
        parent, _, own = name.rpartition(".")
        layer: Any = language.get_submodule(name)
        setattr(language.get_submodule(parent), own, KINDS[kind](layer))


def in_layer(name: str) -> bool:
    """Whether a module is one of a numbered layer, by its name."""
    return re.search(r"\.\d+\.", f".{name}") is not None


def few_numbers(weight: Tensor) -> Tensor:
    """About 64 numbers of a weight, by which others of its shape are told from it."""
    return weight.detach().flatten()[:: max(1, weight.numel() // 64)].float().cpu()


def originals(model: nn.Module) -> dict[str, Sample]:
    """What is known of the matrices that were packed, by the names of their weights."""
    layers = ((name, one) for name, one in model.named_modules() if isinstance(one, QuantizedLinear))
    return {f"{name}.weight": layer.original for name, layer in layers}
