"""Image bytes to what the encoder takes.

Shapes: H, W of the source; S_h, S_w of the encoder's input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional as F

from dress.data.images import (
    DAMAGE,
    MAX_ASPECT,
    ImageError,
    header,
    open_image,
    orientation,
    rgb,
    undecodable,
)

FLIPS = {2: (2,), 3: (1, 2), 4: (1,), 6: (2,), 7: (1, 2), 8: (1,)}
"""Axes of [3, H, W] to flip, by EXIF orientation; from 5 on, height and width are exchanged first."""


class Pixels:
    """Image bytes to what the encoder takes, [3, S_h, S_w].

    `fast` decodes JPEG and resizes with torchvision on bytes: at most two of 255 levels away from
    OpenCLIP's PIL transform (benchmarks/data.py), and equal to it where nothing is resized.

    Args:
        settings: OpenCLIP's preprocessing (size, mean, std, interpolation, resize_mode, fill_color), and where
            more is cut away `crop_from` and `crop_floor` (`edge_of`, `cropped`).
        transform: OpenCLIP's own transform of them.
        mode: `fast`, or `exact` for that transform. What `fast` does not know goes through it, too.
        max_aspect: longer side ÷ shorter side of an image, at most.
    """

    def __init__(
        self, settings: Mapping[str, Any], transform: Callable[[Image.Image], Tensor], mode: str,
        max_aspect: float = MAX_ASPECT,
    ) -> None:  # fmt: skip
        self.size, self.transform, self.max_aspect = size_of(settings), transform, max_aspect
        self.resize, self.fill = settings["resize_mode"], settings["fill_color"]
        self.edge, self.floor = edge_of(settings), settings.get("crop_floor", False)
        self.fast = mode == "fast" and (self.resize != "shortest" or self.size[0] == self.size[1])
        bilinear = settings["interpolation"] == "bilinear"
        self.interpolation = F.InterpolationMode.BILINEAR if bilinear else F.InterpolationMode.BICUBIC
        self.mean, self.std = (torch.tensor(settings[name])[:, None, None] for name in ("mean", "std"))

    def __call__(self, data: bytes, where: str) -> Tensor:
        """Raises ImageError as `open_image` does."""
        if not self.fast:
            return self.transform(open_image(data, where, self.max_aspect))
        return self.resized(data, where).float().div_(255).sub_(self.mean).div_(self.std)

    def resized(self, data: bytes, where: str) -> Tensor:
        """The same before normalisation, uint8 [3, S_h, S_w]."""
        image = decode(data, where, self.max_aspect)
        if self.resize == "longest":
            image = self._resize(image, fitted(image.shape[1], image.shape[2], self.size))
            return padded(image, self.size, self.fill).contiguous()
        return cropped(self._resize(image, self.edge), self.size, self.floor).contiguous()

    def _resize(self, image: Tensor, size: list[int]) -> Tensor:
        return F.resize(image, size, self.interpolation, antialias=True)


def size_of(settings: Mapping[str, Any]) -> list[int]:
    """S_h, S_w of OpenCLIP's preprocessing."""
    size = settings["size"]
    return [size, size] if isinstance(size, int) else list(size)


def edge_of(settings: Mapping[str, Any]) -> list[int]:
    """To what an image is resized before its middle is cut out: both sides, or the shorter one.

    By OpenCLIP that is the size of the input; `crop_from` names more pixels (DINOv2 cuts 224 out of 256).
    """
    size, edge = size_of(settings), settings.get("crop_from")
    if edge is not None:
        size = [edge, edge]
    return size if settings["resize_mode"] == "squash" else size[:1]


def cropped(image: Any, size: list[int], floor: bool) -> Any:
    """The middle S_h, S_w of an image (PIL or [3, H, W]).

    Args:
        image: not smaller than that.
        size: S_h, S_w.
        floor: odd rests are rounded down, as transformers does; else to even halves, as torchvision does.
    """
    if not floor:
        return F.center_crop(image, size)
    height, width = F.get_size(image)
    return F.crop(image, (height - size[0]) // 2, (width - size[1]) // 2, size[0], size[1])


def fitted(height: int, width: int, size: list[int]) -> list[int]:
    """Height and width of an image that is shrunk or enlarged until it just fits into S_h, S_w."""
    ratio = max(height / size[0], width / size[1])
    return [max(1, round(side / ratio)) for side in (height, width)]


def padded(image: Any, size: list[int], fill: int) -> Any:
    """The image (PIL or [3, H, W]) in the middle of S_h, S_w, and `fill` (0-255) around it."""
    height, width = F.get_size(image)
    left, top = (size[1] - width) // 2, (size[0] - height) // 2
    return F.pad(image, [left, top, size[1] - width - left, size[0] - height - top], fill=fill)


def hidden_share(width: int, height: int, settings: Mapping[str, Any]) -> float:
    """Which share of an image's area the encoder's preprocessing cuts away."""
    if settings["resize_mode"] == "longest":
        return 0.0
    down, across = size_of(settings)
    more = settings.get("crop_from", down) / down
    if settings["resize_mode"] == "squash":
        return 1 - 1 / more**2
    scale = max(across / width, down / height) * more
    return max(0.0, 1 - across * down / (width * height * scale**2))


def resize_note(images: Iterable[bytes], settings: Mapping[str, Any], max_aspect: float = MAX_ASPECT) -> str | None:
    """A sentence on what of these images the encoder does not see; None without an image that can be read."""
    shares = []
    for data in images:
        try:
            image = header(data, "", max_aspect)
        except ImageError:
            continue
        on_side = orientation(image) >= 5
        shares.append(hidden_share(*(image.size[::-1] if on_side else image.size), settings))
    if not shares:
        return None
    how = {"shortest": "crop", "longest": "pad"}.get(settings["resize_mode"], settings["resize_mode"])
    down, across = size_of(settings)
    if not any(shares):
        return f"Images are resized to {across} x {down} (model.vision.resize: {how}); nothing is cut away."
    return (
        f"Images are resized to {across} x {down} (model.vision.resize: {how}), which hides "
        f"{100 * sum(shares) / len(shares):.1f} % of an evaluated image's area on average (at most "
        f"{100 * max(shares):.1f} %). What is hidden counts as there in the figures; squash and pad hide nothing."
    )


def decode(data: bytes, where: str, max_aspect: float = MAX_ASPECT) -> Tensor:
    """RGB [3, H, W] as `open_image` gives it, uint8, channels last in memory: what torchvision resizes fastest.

    Raises:
        ImageError: as `open_image`.
    """
    image = header(data, where, max_aspect)
    try:
        if image.format in ("JPEG", "MPO") and image.mode == "RGB":
            pixels = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
        else:
            pixels = torch.from_numpy(np.array(rgb(image))).permute(2, 0, 1)
    except (RuntimeError, *DAMAGE) as error:
        raise undecodable(data, where, error) from None
    turn = orientation(image)
    if turn >= 5:
        pixels = pixels.transpose(1, 2)
    return pixels.flip(FLIPS[turn]) if turn in FLIPS else pixels
