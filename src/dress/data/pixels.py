"""Image bytes to what the encoder takes.

Shapes: H, W of the source; S_h, S_w of the encoder's input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional as F

from dress.data.images import DAMAGE, header, open_image, undecodable


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
    image = header(data, where)
    try:
        if image.format == "JPEG" and image.mode == "RGB":
            return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    except (RuntimeError, *DAMAGE) as error:
        raise undecodable(data, where, error) from None
