"""Vision transformers of OpenCLIP, SigLIP of timm, and vision folders of transformers, as transformers' own towers.

Shapes: D_v width, V patch tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from open_clip.transformer import QuickGELU, VisionTransformer
from torch import Tensor, nn
from transformers import PretrainedConfig

from dress.data.pixels import size_of
from dress.model.towers import HFTower
from dress.model.vision import VisionEncoder

PREFIX_TOKENS = {"clip_vision_model": 1, "dinov2": 1, "siglip_vision_model": 0}
"""Kinds of encoders of transformers, and the tokens before their patches (the class token)."""
BLOCK = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}  # fmt: skip
"""Parts of a block: OpenCLIP's names to those of transformers' CLIP."""
TIMM_BLOCK = {
    "norm1": "layer_norm1", "norm2": "layer_norm2", "attn.proj": "self_attn.out_proj", "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}  # fmt: skip
"""The same of timm's."""
QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


class NoSuchTower(ValueError):
    """No class of transformers holds this encoder; says why."""


@dataclass(frozen=True)
class TransformersTower:
    """An encoder as `LlavaForConditionalGeneration` has it.

    Attributes:
        config: of transformers, with its `model_type`.
        weights: under the names that its own class gives them.
        layer: `vision_feature_layer`.
        prefix_tokens: tokens before the patches, which `vision_feature_select_strategy` takes away: 0 or 1.
        patch: pixels along one side of a patch.
        under: what stands before names of weights, beside `vision_tower.`.
    """

    config: dict[str, Any]
    weights: dict[str, Tensor] = field(repr=False)
    layer: int
    prefix_tokens: int
    patch: int
    under: str = ""


def transformers_tower(vision: VisionEncoder, weights: dict[str, Tensor]) -> TransformersTower:
    """An encoder in the form of transformers.

    Args:
        vision: the encoder.
        weights: of its tower, with adapters merged.

    Raises:
        NoSuchTower: it has no such form.
    """
    tower: Any = vision.tower
    if isinstance(tower, HFTower):
        return _of_folder(vision, tower, weights)
    if isinstance(tower, VisionTransformer):
        return _of_open_clip(vision, tower, weights)
    trunk = getattr(tower, "trunk", None)
    if type(trunk).__name__ == "VisionTransformer":
        weights = {name.removeprefix("trunk."): one for name, one in weights.items() if name.startswith("trunk.")}
        return _of_siglip(vision, trunk, weights)
    raise NoSuchTower(f"{type(trunk if trunk is not None else tower).__name__}: no encoder of CLIP's or SigLIP's form")


def _of_open_clip(vision: VisionEncoder, tower: VisionTransformer, weights: dict[str, Tensor]) -> TransformersTower:
    blocks = list(tower.transformer.resblocks)
    first: Any = blocks[0]
    _refuse(
        {
            "no norm before its blocks": isinstance(tower.ln_pre, nn.Identity),
            "images that are not square": tower.image_size[0] != tower.image_size[1],
            "layer scale": not isinstance(first.ls_1, nn.Identity),
            "attention of another kind": type(first.attn) is not nn.MultiheadAttention,
            "a patch embedding with a bias": tower.conv1.bias is not None,
            "norms or activations of another kind": not isinstance(first.ln_1, nn.LayerNorm),
        }
    )
    out = {
        "embeddings.class_embedding": weights["class_embedding"],
        "embeddings.patch_embedding.weight": weights["conv1.weight"],
        "embeddings.position_embedding.weight": weights["positional_embedding"],
        **_both(weights, "ln_pre", "pre_layrnorm"),
        **_both(weights, "ln_post", "post_layernorm"),
    }
    for number in range(len(blocks)):
        at, to = f"transformer.resblocks.{number}.", f"encoder.layers.{number}."
        out |= _block(weights, f"{at}attn.in_proj_", {at + name: to + own for name, own in BLOCK.items()}, to)
    config = {
        "model_type": "clip_vision_model", "hidden_size": tower.conv1.out_channels,
        "intermediate_size": first.mlp.c_fc.out_features, "num_hidden_layers": len(blocks),
        "num_attention_heads": first.attn.num_heads, "image_size": tower.image_size[0],
        "patch_size": tower.patch_size[0], "hidden_act": _activation(first.mlp.gelu),
        "layer_norm_eps": first.ln_1.eps, "projection_dim": tower.output_dim,
    }  # fmt: skip
    return TransformersTower(config, out, _layer(vision.layer), 1, tower.patch_size[0], "vision_model.")


def _of_siglip(vision: VisionEncoder, trunk: Any, weights: dict[str, Tensor]) -> TransformersTower:
    first, patches = trunk.blocks[0], trunk.patch_embed
    _refuse(
        {
            "class or register tokens": trunk.num_prefix_tokens != 0,
            "a norm before its blocks": not isinstance(trunk.norm_pre, nn.Identity),
            "layer scale": not isinstance(first.ls1, nn.Identity),
            "norms of queries and keys": not isinstance(first.attn.q_norm, nn.Identity),
            "images that are not square": patches.img_size[0] != patches.img_size[1],
            "patches without a bias": patches.proj.bias is None,
            "blocks of another kind": set(TIMM_BLOCK) - {name for name, _ in first.named_modules()} != set(),
        }
    )
    out = {
        **_both(weights, "patch_embed.proj", "embeddings.patch_embedding"),
        "embeddings.position_embedding.weight": weights["pos_embed"][0],
    }
    out |= _both(weights, "norm", "post_layernorm") if "norm.weight" in weights else _identity(trunk.embed_dim)
    for number in range(len(trunk.blocks)):
        at, to = f"blocks.{number}.", f"encoder.layers.{number}."
        out |= _block(weights, f"{at}attn.qkv.", {at + name: to + own for name, own in TIMM_BLOCK.items()}, to)
    config = {
        "model_type": "siglip_vision_model", "hidden_size": trunk.embed_dim,
        "intermediate_size": first.mlp.fc1.out_features, "num_hidden_layers": len(trunk.blocks),
        "num_attention_heads": first.attn.num_heads, "image_size": patches.img_size[0],
        "patch_size": patches.patch_size[0], "hidden_act": _activation(first.mlp.act),
        "layer_norm_eps": first.norm1.eps, "vision_use_head": False,
    }  # fmt: skip
    return TransformersTower(config, out, _layer(vision.layer), 0, patches.patch_size[0], "vision_model.")


def _of_folder(vision: VisionEncoder, tower: HFTower, weights: dict[str, Tensor]) -> TransformersTower:
    """A folder's own class; its blocks behind the chosen one are gone already."""
    network: Any = tower.network
    described: PretrainedConfig = network.config
    if described.model_type not in PREFIX_TOKENS:
        raise NoSuchTower(f"{described.model_type}: more tokens before its patches than one")
    weights = {name.removeprefix("network."): one for name, one in weights.items()}
    config = described.to_diff_dict() | {"model_type": described.model_type}
    for name in ("architectures", "stage_names", "out_features", "out_indices", "dtype", "transformers_version"):
        config.pop(name, None)
    if described.model_type == "siglip_vision_model":
        config["vision_use_head"] = False
        weights = {name: one for name, one in weights.items() if ".head." not in f".{name}"}
    size = size_of(vision.preprocessing)[0]
    if described.model_type != "dinov2" and size != described.image_size:
        weights, config = _resized(network, weights, size), config | {"image_size": size}
    under = "" if described.model_type == "dinov2" else "vision_model."
    weights = {name.removeprefix(under): one for name, one in weights.items()}
    return TransformersTower(config, weights, -1, PREFIX_TOKENS[described.model_type], described.patch_size, under)


def _resized(network: Any, weights: dict[str, Tensor], size: int) -> dict[str, Tensor]:
    """Position embeddings for images of another size, as the model itself interpolates them."""
    (embeddings,) = (one for one in network.modules() if hasattr(one, "interpolate_pos_encoding"))
    patches = (size // network.config.patch_size) ** 2
    with torch.no_grad():
        prefix = embeddings.position_embedding.num_embeddings - embeddings.num_patches
        blank = torch.zeros(1, patches + prefix, network.config.hidden_size)
        positions = embeddings.interpolate_pos_encoding(blank, size, size)[0]
    (name,) = (one for one in weights if one.endswith("position_embedding.weight"))
    return weights | {name: positions}


def _layer(layer: int) -> int:
    """`model.vision.layer` as a place in `hidden_states`, which begins with the embeddings."""
    return layer if layer < 0 else layer + 1


def _activation(module: nn.Module) -> str:
    """transformers' name of an activation.

    Raises:
        NoSuchTower: it has none here.
    """
    if isinstance(module, QuickGELU):
        return "quick_gelu"
    if isinstance(module, nn.GELU):
        return "gelu" if module.approximate == "none" else "gelu_pytorch_tanh"
    if type(module).__name__ == "GELUTanh":
        return "gelu_pytorch_tanh"
    raise NoSuchTower(f"{type(module).__name__}: an activation of another kind")


def _block(weights: dict[str, Tensor], fused: str, names: dict[str, str], to: str) -> dict[str, Tensor]:
    """A block's weights: the map that gives queries, keys and values at once in three, the others by `names`."""
    out: dict[str, Tensor] = {}
    for kind in ("weight", "bias"):
        parts = weights[f"{fused}{kind}"].chunk(3)
        out |= {f"{to}{name}.{kind}": part for name, part in zip(QKV, parts, strict=True)}
    for name, own in names.items():
        out |= _both(weights, name, own)
    return out


def _both(weights: dict[str, Tensor], name: str, own: str) -> dict[str, Tensor]:
    return {f"{own}.{kind}": weights[f"{name}.{kind}"] for kind in ("weight", "bias")}


def _identity(width: int) -> dict[str, Tensor]:
    """A norm behind the last block, whose output nobody reads."""
    return {"post_layernorm.weight": torch.ones(width), "post_layernorm.bias": torch.zeros(width)}


def _refuse(reasons: dict[str, bool]) -> None:
    there = [name for name, one in reasons.items() if one]
    if there:
        raise NoSuchTower(", ".join(there))
