"""Image bytes to pixels, with limits checked on the header before anything is decoded.

Shapes: H, W of the source; S_h, S_w of the encoder's input.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional as F

from dress.record import RecordError

DAMAGE = (OSError, SyntaxError, EOFError, IndexError, struct.error)
"""What Pillow raises on files that are cut or malformed."""

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 40_000_000
"""Largest width x height that is decoded: 40 MP, about 120 MB as RGB."""


def open_image(data: bytes, where: str) -> Image.Image:
    """Decode to RGB.

    Args:
        data: a whole JPEG, PNG or WebP file.
        where: shard and key to name in an error.

    Raises:
        RecordError: not an image of these formats, cut short, or larger than `MAX_PIXELS`.
    """
    image = _header(data, where)
    try:
        return image.convert("RGB")
    except DAMAGE as error:
        raise _undecodable(data, where, error) from None


class Pixels:
    """Image bytes to what the encoder takes, [3, S_h, S_w].

    `fast` decodes JPEG and resizes with torchvision on bytes: at most two of 255 levels away from
    OpenCLIP's PIL transform (benchmarks/data.py), and equal to it where nothing is resized.

    Args:
        settings: OpenCLIP's preprocessing (size, mean, std, interpolation, resize_mode).
        transform: OpenCLIP's own transform of them.
        mode: `fast`, or `exact` for that transform. What `fast` does not know goes through it, too.
    """

    def __init__(self, settings: Mapping[str, Any], transform: Callable[[Image.Image], Tensor], mode: str) -> None:
        size = settings["size"]
        self.size = [size, size] if isinstance(size, int) else list(size)
        self.squash, self.transform = settings["resize_mode"] == "squash", transform
        known = settings["resize_mode"] in ("squash", "shortest") and (self.squash or self.size[0] == self.size[1])
        self.fast = mode == "fast" and known
        bilinear = settings["interpolation"] == "bilinear"
        self.interpolation = F.InterpolationMode.BILINEAR if bilinear else F.InterpolationMode.BICUBIC
        self.mean, self.std = (torch.tensor(settings[name])[:, None, None] for name in ("mean", "std"))

    def __call__(self, data: bytes, where: str) -> Tensor:
        """Raises RecordError as `open_image` does."""
        if not self.fast:
            return self.transform(open_image(data, where))
        return self.resized(data, where).float().div_(255).sub_(self.mean).div_(self.std)

    def resized(self, data: bytes, where: str) -> Tensor:
        """The same before normalisation, uint8 [3, S_h, S_w]."""
        image = decode(data, where)
        image = F.resize(image, self.size if self.squash else self.size[:1], self.interpolation, antialias=True)
        return F.center_crop(image, self.size).contiguous()


def decode(data: bytes, where: str) -> Tensor:
    """RGB [3, H, W], uint8, channels last in memory: what torchvision resizes fastest.

    Raises:
        RecordError: as `open_image`.
    """
    image = _header(data, where)
    try:
        if image.format == "JPEG" and image.mode == "RGB":
            return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    except (RuntimeError, *DAMAGE) as error:
        raise _undecodable(data, where, error) from None


def _header(data: bytes, where: str) -> Image.Image:
    """The image, of which only the header is read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (UnidentifiedImageError, Image.DecompressionBombError, *DAMAGE) as error:
        raise _undecodable(data, where, error) from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise RecordError(
            f"{where}: image is {width} x {height}; expected at most {MAX_PIXELS:,} pixels, "
            f"got {width * height:,}. Shrink it before writing the shard."
        )
    return image


def _undecodable(data: bytes, where: str, error: Exception) -> RecordError:
    why = "another format, or cut in the header" if isinstance(error, UnidentifiedImageError) else error
    return RecordError(
        f"{where}: expected a {', '.join(FORMATS)} image, got {len(data)} bytes that do not decode ({why})"
    )
