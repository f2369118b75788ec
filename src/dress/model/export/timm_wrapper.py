"""Encoders of timm, and DINOv2, as transformers' `timm_wrapper`, whose last block is the chosen one.

`PerceptionLMForConditionalGeneration` reads what such a model ends with, so the blocks behind and the last norm are
left out: `depth`, and `fc_norm`, which moves the norm behind a pooling that is not done.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from torch import Tensor

from dress.data.pixels import size_of
from dress.model.export.clip import NoSuchTower
from dress.model.towers import HFTower
from dress.model.vision import VisionEncoder

DINOV2 = "vit_small_patch14_dinov2"
"""timm's DINOv2 with a plain MLP, which takes any sizes."""
DINOV2_BLOCK = {
    "norm1": "norm1", "norm2": "norm2", "attention.o_proj": "attn.proj", "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}  # fmt: skip
"""Parts of a block: names of transformers to those of timm."""


@dataclass(frozen=True)
class TimmWrapperTower:
    """An encoder as `PerceptionLMForConditionalGeneration` has it.

    Attributes:
        config: of transformers, with its `model_type`.
        weights: under timm's names.
        prefix_tokens: 1 where a class token comes first, else 0.
        patch: pixels along one side of a patch.
    """

    config: dict[str, Any]
    weights: dict[str, Tensor] = field(repr=False)
    prefix_tokens: int
    patch: int


def timm_wrapper_tower(vision: VisionEncoder, weights: dict[str, Tensor], architecture: str | None) -> TimmWrapperTower:
    """An encoder as a model of timm's of one resolution.

    Args:
        vision: the encoder.
        weights: of its tower.
        architecture: timm's name of it; None for DINOv2 of transformers.

    Raises:
        NoSuchTower: it has no such form.
    """
    tower: Any = vision.tower
    height, width = size_of(vision.preprocessing)
    if height != width:
        raise NoSuchTower("images that are not square")
    if isinstance(tower, HFTower):
        architecture, (weights, more) = DINOV2, _dinov2(tower, weights, height)
    elif hasattr(tower, "trunk"):
        weights = {name.removeprefix("trunk."): one for name, one in weights.items() if name.startswith("trunk.")}
        blocks = len(getattr(tower.trunk, "blocks", ()))
        more = {"depth": vision.layer + blocks + 1 if vision.layer < 0 else vision.layer + 1}
    else:
        raise NoSuchTower(f"{type(tower).__name__}: no model of timm")
    sizes = {"img_size": height, "embed_dim": vision.width, **more}
    trunk, arguments = _made(str(architecture), sizes)
    prefix = getattr(trunk, "num_prefix_tokens", 0)
    if prefix > 1:
        raise NoSuchTower(f"{architecture}: {prefix} tokens before its patches")
    config = {
        "model_type": "timm_wrapper", "architecture": architecture, "do_pooling": False, "model_args": arguments
    }  # fmt: skip
    patch = trunk.patch_embed.patch_size[0]
    return TimmWrapperTower(config, _fitted(trunk, weights, str(architecture)), prefix, patch)


def _made(architecture: str, sizes: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A trunk of these sizes without its last norm, on no device, and the arguments that make it.

    Raises:
        NoSuchTower: it takes no such arguments.
    """
    reason = ""
    for name in ("fc_norm", "use_fc_norm"):  # of vision transformers, and of EVA
        arguments = {**sizes, name: True}
        try:
            with torch.device("meta"):
                return timm.create_model(architecture, num_classes=0, **arguments), arguments
        except (TypeError, RuntimeError, AssertionError, AttributeError) as error:
            reason = str(error)[:100]
    raise NoSuchTower(f"{architecture}: takes no depth or size ({reason})")


def _fitted(trunk: Any, weights: dict[str, Tensor], architecture: str) -> dict[str, Tensor]:
    """The weights that a trunk has, in its shapes; the norm behind the pooling is one that nobody reads."""
    out = {}
    for name, one in trunk.state_dict().items():
        if name.startswith("fc_norm."):
            out[name] = (torch.ones if name.endswith("weight") else torch.zeros)(one.shape)
        elif name in weights and weights[name].shape == one.shape:
            out[name] = weights[name]
        else:
            got = list(weights[name].shape) if name in weights else "none"
            raise NoSuchTower(f"{architecture}: {name}: expected {list(one.shape)}, got {got}")
    return out


def _dinov2(tower: HFTower, weights: dict[str, Tensor], size: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights of a DINOv2 under timm's names, for images of this size, and its sizes as timm's arguments."""
    described: Any = tower.network.config
    if described.model_type != "dinov2" or described.use_swiglu_ffn:
        raise NoSuchTower(f"{described.model_type}: no model of timm is made of its weights")
    weights = {name.removeprefix("network."): one for name, one in weights.items()}
    embeddings: Any = tower.network.embeddings
    side = size // described.patch_size
    with torch.no_grad():
        blank = torch.zeros(1, side**2 + 1, described.hidden_size)
        positions = embeddings.interpolate_pos_encoding(blank, size, size)
    out = {
        "cls_token": weights["embeddings.cls_token"], "pos_embed": positions,
        "patch_embed.proj.weight": weights["embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": weights["embeddings.patch_embeddings.projection.bias"],
    }  # fmt: skip
    depth = described.num_hidden_layers
    for number in range(depth):
        at, to = f"encoder.layer.{number}.", f"blocks.{number}."
        for kind in ("weight", "bias"):
            parts = [weights[f"{at}attention.{part}_proj.{kind}"] for part in "qkv"]
            out[f"{to}attn.qkv.{kind}"] = torch.cat(parts)
            for own, theirs in DINOV2_BLOCK.items():
                out[f"{to}{theirs}.{kind}"] = weights[f"{at}{own}.{kind}"]
        for half in (1, 2):
            out[f"{to}ls{half}.gamma"] = weights[f"{at}layer_scale{half}.lambda1"]
    sizes = {
        "depth": depth, "patch_size": described.patch_size, "num_heads": described.num_attention_heads,
        "mlp_ratio": described.mlp_ratio,
    }  # fmt: skip
    return out, sizes
