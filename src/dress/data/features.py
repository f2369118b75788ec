"""Frozen vision features in shards: `<key>.features.safetensors`, written by `task=features`.

bf16 or fp32 as they are, or int8 with one scale per token. The metadata say which encoder made them; where images have
different numbers of tokens, also how these stand among others (`layout`), and a tensor has their positions.
Read without a copy: the header is parsed here, the numbers are a view of the bytes. torch is imported only where
numbers are made of them: indexing, which import's worker processes do too, needs the header alone.

Shapes: V image tokens, D_v width of the encoder, P numbers of a position.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from dress.dialogue.image import ImageLayout

Stored = Literal["fp32", "bf16", "int8"]
KINDS: dict[str, tuple[Stored, int]] = {"F32": ("fp32", 4), "BF16": ("bf16", 2), "I8": ("int8", 1)}
"""Names of safetensors to ours, and bytes of a number."""
LEVELS = 127
"""Largest int8 value: a token's scale is its largest magnitude ÷ this."""


class FeatureError(ValueError):
    """Stored features that cannot be used; the message says what was expected and what is there."""


@dataclass(frozen=True, eq=False)
class StoredImage:
    """An image's features [V, D_v], and its layout where images have different numbers of tokens."""

    features: Tensor
    layout: ImageLayout | None = None


@dataclass(frozen=True)
class FeatureHeader:
    """Where the numbers lie in a file: bytes [at, at + size) of shape [V, D_v], and the scales [V] of int8 ones.

    `layout` of the image: its parts, advance and block; `positions`: P, and where those [P, V] begin.
    """

    LONGEST: ClassVar[int] = 64 * 1024

    stored: Stored
    shape: tuple[int, int]
    at: int
    scale_at: int | None
    encoder: tuple[tuple[str, str], ...]
    layout: tuple[tuple[str | int, ...], int, bool] | None = None
    positions: tuple[int, int] | None = None

    def common(self) -> dict[str, Any]:
        """What all features of a shard must have in common; kept in the index. `tokens`: None where images differ."""
        tokens = None if self.layout else self.shape[0]
        return {"stored": self.stored, "tokens": tokens, "width": self.shape[1], "encoder": dict(self.encoder)}


def encode(features: Tensor, stored: Stored, encoder: Mapping[str, str], layout: ImageLayout | None = None) -> bytes:
    """A safetensors file of features [V, D_v].

    Args:
        features: of one image.
        stored: how.
        encoder: says what made them.
        layout: of the image, where images have different numbers of tokens.
    """
    import torch
    from safetensors.torch import save

    metadata = {"encoder": json.dumps(dict(encoder), sort_keys=True)}
    if stored == "int8":
        numbers = features.float()
        scale = (numbers.abs().amax(1) / LEVELS).clamp(min=torch.finfo(torch.float32).tiny)
        tensors = {"features": (numbers / scale[:, None]).round().to(torch.int8), "scale": scale}
    else:
        tensors = {"features": features.to(torch.float32 if stored == "fp32" else torch.bfloat16).contiguous()}
    if layout is not None:
        metadata["layout"] = json.dumps({"parts": layout.parts, "advance": layout.advance, "block": layout.block})
        if layout.positions is not None:
            tensors["positions"] = torch.from_numpy(np.ascontiguousarray(layout.positions, np.int64))
    return save(tensors, metadata)


def decode_image(data: np.ndarray) -> StoredImage:
    """What a file's bytes [uint8] hold of an image; the features as by `decode`.

    Raises:
        FeatureError: as `decode`.
    """
    from dress.dialogue.image import ImageLayout

    length = int.from_bytes(data[:8].tobytes(), "little")
    header = _header(data[: 8 + min(length, FeatureHeader.LONGEST)].tobytes(), len(data))
    if header.layout is None:
        return StoredImage(decode(data))
    positions = None
    if header.positions is not None:
        axes, at = header.positions
        size = 8 * axes * header.shape[0]
        positions = np.frombuffer(data[at : at + size].tobytes(), np.int64).reshape(axes, -1)
    parts, advance, block = header.layout
    return StoredImage(decode(data), ImageLayout(parts, positions, advance, block))


def decode(data: np.ndarray) -> Tensor:
    """Features [V, D_v]: fp32 and bf16 as a view of the bytes [uint8], int8 ones as fp32.

    Raises:
        FeatureError: no such file, or cut.
    """
    import torch

    length = int.from_bytes(data[:8].tobytes(), "little")
    header = _header(data[: 8 + min(length, FeatureHeader.LONGEST)].tobytes(), len(data))
    tokens, width = header.shape
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}[header.stored]
    numbers = torch.from_numpy(data[header.at : header.at + tokens * width * kind.itemsize])
    if header.at % kind.itemsize:
        numbers = numbers.clone()
    features = numbers.view(kind).view(tokens, width)
    if header.scale_at is None:
        return features
    scale = torch.from_numpy(data[header.scale_at : header.scale_at + 4 * tokens].copy()).view(torch.float32)
    return features.float() * scale[:, None]


def read_header(data: bytes, size: int) -> FeatureHeader:
    """The header of a file of `size` bytes, of which `data` are the first.

    Raises:
        FeatureError: not features as we write them, or cut.
    """
    length = int.from_bytes(data[:8], "little")
    return _header(data[: 8 + min(length, FeatureHeader.LONGEST)], size)


@lru_cache(maxsize=64)
def _header(data: bytes, size: int) -> FeatureHeader:
    """Of all samples of a shard the headers are equal: parsed once."""
    length = int.from_bytes(data[:8], "little")
    if length > len(data) - 8 or length + 8 > size:
        raise FeatureError(f"expected a safetensors header, got {size} bytes that hold none")
    try:
        header = json.loads(data[8:])
        encoder = json.loads(header["__metadata__"]["encoder"])
        stored, itemsize = KINDS[header["features"]["dtype"]]
        tokens, width = (int(n) for n in header["features"]["shape"])
        at = 8 + length + int(header["features"]["data_offsets"][0])
        ends = [at + tokens * width * itemsize]
        scale_at = None
        if stored == "int8":
            if header["scale"]["dtype"] != "F32" or list(header["scale"]["shape"]) != [tokens]:
                raise KeyError("scale")
            scale_at = 8 + length + int(header["scale"]["data_offsets"][0])
            ends.append(scale_at + 4 * tokens)
        parts = tuple(sorted((str(name), str(value)) for name, value in encoder.items()))
        layout, positions = _layout(header["__metadata__"], tokens), None
        if layout is not None and "positions" in header:
            axes = int(header["positions"]["shape"][0])
            if header["positions"]["dtype"] != "I64" or list(header["positions"]["shape"]) != [axes, tokens]:
                raise KeyError("positions")
            positions = axes, 8 + length + int(header["positions"]["data_offsets"][0])
            ends.append(positions[1] + 8 * axes * tokens)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FeatureError(f"expected features [tokens, width] in fp32, bf16 or int8, got others ({error!r})") from None
    if min(tokens, width, at, scale_at or 0, *(positions or ())) < 0 or max(ends) > size:
        raise FeatureError(f"expected {max(ends)} bytes, got {size}: it was cut")
    return FeatureHeader(stored, (tokens, width), at, scale_at, parts, layout, positions)


def _layout(metadata: Mapping[str, str], tokens: int) -> tuple[tuple[str | int, ...], int, bool] | None:
    """The layout of an image, None where the file has none; raises ValueError: it is not of so many tokens."""
    if "layout" not in metadata:
        return None
    layout = json.loads(metadata["layout"])
    parts = tuple(part if isinstance(part, str) else int(part) for part in layout["parts"])
    runs = [part for part in parts if isinstance(part, int)]
    if sum(runs) != tokens or min(runs, default=1) < 1:
        raise ValueError(f"a layout of {sum(runs)} tokens for {tokens}")
    return parts, int(layout["advance"]), bool(layout["block"])


def check_encoder(stored: Mapping[str, Any] | None, expected: Mapping[str, str], where: str) -> None:
    """Refuse features that another encoder made.

    Args:
        stored: `FeatureHeader.common` of a shard, from its index.
        expected: what the encoder of this run says of itself (`VisionEncoder.facts`).
        where: the shard.

    Raises:
        FeatureError: names the shard, what is expected and what was found.
    """
    make = "python src/prepare.py task=features makes them"
    if stored is None:
        raise FeatureError(f"{where}: data.features=true: expected stored features, found none; {make}")
    unlike = sorted(
        name for name in {*stored["encoder"], *expected} if stored["encoder"].get(name) != expected.get(name)
    )
    if unlike:
        pairs = "; ".join(f"{n}: expected {expected.get(n)}, got {stored['encoder'].get(n)}" for n in unlike)
        raise FeatureError(f"{where}: data.features=true: features of another encoder: {pairs}; {make} anew")
