"""From the encoder's space to the language model's: one linear layer as in the paper (`torch.nn.Linear`), or these.

Shapes: N images, V tokens of the encoder, row by row, f the factor of a projector that gives fewer: V / f² of them.
"""

from __future__ import annotations

import re
from math import isqrt
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from dress.model.weight_files import check_file

PLACE = re.compile(r"^(?:.*\.)?(?:mm_projector|multi_modal_projector|projector)\.")
"""How names of a projector's weights begin where it stands among others."""
LAYERS = {"linear_1": "0", "linear_2": "2"}
"""Layers of an MLP as transformers names them (LLaVA), and as `torch.nn.Sequential` does."""


class MLP(nn.Sequential):
    """Two linear layers as in LLaVA-1.5: [..., width_in] to [..., width_out].

    Args:
        width_in: of the encoder's tokens.
        width_out: of the language model's embeddings.
        gain: the first layer's weights start as so many times torch's own, where the encoder's tokens are small.
    """

    def __init__(self, width_in: int, width_out: int, gain: float = 1.0) -> None:
        super().__init__(nn.Linear(width_in, width_out), nn.GELU(), nn.Linear(width_out, width_out))
        with torch.no_grad():
            self.get_submodule("0").get_parameter("weight").mul_(gain)


class PixelShuffle(MLP):
    """Squares of f x f tokens side by side in one, then two linear layers: [N, V, width_in] to [N, V / f², width_out].

    As in InternVL, Idefics3 and SmolVLM: nothing is lost before the first layer.
    """

    def __init__(self, width_in: int, width_out: int, factor: int = 2, gain: float = 1.0) -> None:
        super().__init__(width_in * _checked(factor) ** 2, width_out, gain)
        self.factor = factor

    def forward(self, features: Tensor) -> Tensor:
        """Raises ValueError where V is no square, or `factor` does not divide its side."""
        return super().forward(squares(features, self.factor).flatten(2))


class Pooling(MLP):
    """Two linear layers, then means over squares of f x f tokens: [N, V, width_in] to [N, V / f², width_out].

    As in PerceptionLM, whose class such a model is exported to.
    """

    def __init__(self, width_in: int, width_out: int, factor: int = 2, gain: float = 1.0) -> None:
        super().__init__(width_in, width_out, gain)
        self.factor = _checked(factor)

    def forward(self, features: Tensor) -> Tensor:
        """Raises ValueError where V is no square, or `factor` does not divide its side."""
        return squares(super().forward(features), self.factor).mean(2)


def squares(features: Tensor, factor: int) -> Tensor:
    """Tokens [N, V, D] by squares of f x f, both row by row: [N, V / f², f², D].

    Raises:
        ValueError: V is no square number, or `factor` does not divide its root.
    """
    images, tokens, width = features.shape
    side = isqrt(tokens)
    if side * side != tokens or side % factor:
        raise ValueError(
            f"expected a square of image tokens whose side factor={factor} divides, got {tokens} tokens"
            + (f" ({side} x {side})" if side * side == tokens else "")
        )
    places = features.reshape(images, side // factor, factor, side // factor, factor, width)
    return places.transpose(2, 3).reshape(images, tokens // factor**2, factor**2, width)


def _checked(factor: int) -> int:
    if not isinstance(factor, int) or factor < 1:
        raise ValueError(f"expected factor >= 1, got {factor!r:.40}")
    return factor


def projector_file(name: str) -> Path:
    """The file of `model.projector_weights`: itself, or that of a run's stage."""
    return Path(name) / "model.safetensors" if Path(name).is_dir() else Path(name)


def check_projector(name: str | None) -> None:
    """Refuse starting weights that are not there or not whole.

    Raises:
        ValueError: names the file, and what to do.
    """
    if name is not None:
        check_file(projector_file(name), f"model.projector_weights={name}")


def load_projector(projector: nn.Module, name: str) -> None:
    """Put starting weights into a projector: a file of one, or of a whole model that has one.

    Names may begin as in LLaVA (`mm_projector.0.weight`), transformers (`multi_modal_projector.linear_1.weight`)
    or a stage of a run (`projector.weight`), or as the module's own.

    Raises:
        ValueError: the file holds no such weights, or of other sizes.
    """
    check_projector(name)
    with safe_open(projector_file(name), framework="pt") as tensors:
        names = list(tensors.keys())
        places = [key for key in names if PLACE.match(key)] or names
        weights = {_own_name(key): tensors.get_tensor(key) for key in places}
    state = projector.state_dict()
    wrong = sorted(weights.keys() ^ state.keys()) or [key for key in state if state[key].shape != weights[key].shape]
    if wrong:
        key = wrong[0]
        got, expected = (list(part[key].shape) if key in part else "nothing" for part in (weights, state))
        raise ValueError(
            f"model.projector_weights={name}: expected the {len(state)} tensors of model.projector, of which "
            f"{len(wrong)} differ, first {key}: expected {expected}, got {got}"
        )
    projector.load_state_dict(weights)


def _own_name(key: str) -> str:
    layer, *rest = PLACE.sub("", key).split(".")
    return ".".join([LAYERS.get(layer, layer), *rest])
