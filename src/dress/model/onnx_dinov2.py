"""The DINOv2 backbone in an ONNX file, as transformers' `Dinov2Model`.

An exporter keeps the names of most weights. The matrix of a product has none: it is named by its node's path, and lies
transposed. Position embeddings are two constants: the class token's, and the grid's.

Shapes: D width, G places of the grid's side.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

PREFIX = "backbone."
"""How names of the encoder's weights begin."""
PRODUCT = "MatMul"
HEAD = 64
"""Width of an attention head, the same in all DINOv2 models."""
SIZE = 224
"""Pixels of an image; as in training, the shorter side is made 256 / 224 of it before its middle is taken."""

Arrays = Mapping[str, np.ndarray]


def write_dinov2(file: Path, folder: Path) -> None:
    """The encoder in an ONNX file and its preprocessor, as a folder of transformers.

    Raises:
        ValueError: it does not hold a whole encoder of this kind; names the file and the first weight.
    """
    import onnx  # here: it is installed for this only
    from onnx import numpy_helper

    graph = onnx.load(str(file)).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    products = [(node.name, node.input[1]) for node in graph.node if node.op_type == PRODUCT]
    try:
        write_folder(weights(arrays, products), folder)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def weights(arrays: Arrays, products: Iterable[tuple[str, str]]) -> dict[str, np.ndarray]:
    """The weights under transformers' names.

    Args:
        arrays: what the file holds, by name.
        products: path and right factor of each matrix product.

    Raises:
        ValueError: there are no two constants that could be position embeddings.
    """
    result = {name.removeprefix(PREFIX): one for name, one in arrays.items() if name.startswith(PREFIX)}
    for path, factor in products:
        name = path.strip("/").replace("/", ".").removesuffix(f".{PRODUCT}")
        if name.startswith(PREFIX) and factor in arrays and not factor.startswith(PREFIX):
            result[f"{name.removeprefix(PREFIX)}.weight"] = arrays[factor].T
    others = [one for name, one in arrays.items() if one.ndim == 3 and not name.startswith(PREFIX)]
    result["embeddings.position_embeddings"] = _positions(others)
    return result


def _positions(constants: list[np.ndarray]) -> np.ndarray:
    """[1, 1 + G², D] of the class token's [1, 1, D] and the grid's [1, G², D].

    Raises:
        ValueError: there are others.
    """
    token, grid = ([one for one in constants if (one.shape[1] == 1) is single] for single in (True, False))
    if len(token) != 1 or len(grid) != 1:
        shapes = ", ".join(str(list(one.shape)) for one in constants) or "none"
        raise ValueError(f"position embeddings: expected [1, 1, D] and [1, G², D], got {shapes}")
    return np.concatenate([token[0], grid[0]], 1)


def write_folder(named: Arrays, folder: Path) -> None:
    """config.json, model.safetensors and preprocessor_config.json of these weights, whose sizes are the encoder's.

    Raises:
        ValueError: a weight is missing, of another size, or none of its own.
    """
    layers = 1 + max((int(name.split(".")[2]) for name in named if name.startswith("encoder.layer.")), default=-1)
    try:
        patches = named["embeddings.patch_embeddings.projection.weight"]
        side = isqrt(named["embeddings.position_embeddings"].shape[1] - 1)
        hidden = named["encoder.layer.0.mlp.fc1.weight"].shape[0]
    except KeyError as error:
        raise ValueError(f"expected the weights of a DINOv2 encoder, found no {error}") from None
    width, _, patch, _ = patches.shape
    Dinov2Config(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=width // HEAD, mlp_ratio=hidden // width,
        image_size=side * patch, patch_size=patch, use_mask_token=False, architectures=["Dinov2Model"],
    ).save_pretrained(folder)  # fmt: skip
    tensors = {name: np.ascontiguousarray(one) for name, one in named.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    BitImageProcessor(
        size={"shortest_edge": SIZE * 8 // 7}, crop_size={"height": SIZE, "width": SIZE}, resample=3,
        image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)  # fmt: skip
    loaded: Any = Dinov2Model.from_pretrained(folder, output_loading_info=True)
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(map(str, loaded[1][what])):
            raise ValueError(f"{what}: expected none of a DINOv2 encoder, got {len(names)}, first {names[0]}")
