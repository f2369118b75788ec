"""From the bytes of an image to what a model takes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from dress.data.pixels import Pixels
from dress.dialogue.image import ImageLayout, Picture


class PictureReader(Protocol):
    """Reads images for one model; goes to worker processes, and holds no weights."""

    @property
    def most_tokens(self) -> int:
        """Image tokens and those around them, of the largest images; an estimate where they depend on the image."""
        ...

    def __call__(self, data: bytes, where: str) -> Picture:
        """An image as the model takes it.

        Raises:
            RecordError: it does not decode, or is too narrow.
        """
        ...

    def layout(self, size: tuple[int, int]) -> ImageLayout:
        """The tokens of an image of this width and height, in pixels."""
        ...

    def length(self, size: tuple[int, int]) -> int:
        """Tokens of an image of this width and height, with those around them; fast."""
        ...

    def stored(self, features: Tensor, layout: ImageLayout | None) -> Picture:
        """An image whose features [V, D_v] are stored, with its layout where images have different ones."""
        ...


@dataclass(frozen=True)
class FixedReader:
    """Images that all have equally many tokens.

    Attributes:
        pixels: bytes to pixels [3, H, W].
        tokens: V, as the projector gives them.
    """

    pixels: Pixels
    tokens: int

    @property
    def most_tokens(self) -> int:
        """V."""
        return self.tokens

    def __call__(self, data: bytes, where: str) -> Picture:
        return Picture({"pixels": self.pixels(data, where)[None]}, ImageLayout((self.tokens,)))

    def layout(self, size: tuple[int, int]) -> ImageLayout:
        """The same for every image."""
        return ImageLayout((self.tokens,))

    def length(self, size: tuple[int, int]) -> int:
        """V."""
        return self.tokens

    def stored(self, features: Tensor, layout: ImageLayout | None = None) -> Picture:
        """An image whose features [V_v, D_v] are stored, as the encoder gave them."""
        return Picture({"features": features}, ImageLayout((self.tokens,)))
