"""Images as the processor of a transformers model makes them, with their tokens and positions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import copy
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText

from dress.data.images import MAX_ASPECT, open_image
from dress.dialogue.image import ImageLayout, Picture
from dress.model.attention import Blocks

LARGE = ((1920, 1080), (1080, 1920), (2048, 2048), (3200, 800), (800, 3200))
"""Widths and heights that are tried to see how many tokens an image may have."""
TRIED = ((70, 40), (33, 61), (640, 480))
"""Widths and heights at which the processor's own count of tokens is compared with what it makes of a picture."""
SIZES = 4096
"""Sizes of images whose tokens are remembered."""


class HFReader:
    """Reads images with a model's own processor; goes to worker processes, and holds no weights.

    Args:
        processor: of the model.
        settings: transformers' configuration of the model.
        accepted: what its encoder takes.
        name: of the model, for errors.

    Raises:
        ValueError: the processor has no image token, or does not say what stands for an image.
    """

    _model: Any  # without weights, for its positions
    _more: int | None  # tokens around an image beside those that the processor counts; -1: it does not count right

    def __init__(self, processor: Any, settings: Any, accepted: Sequence[str], name: str) -> None:
        self.processor, self.settings, self.accepted = processor, settings, tuple(accepted)
        self.max_aspect = MAX_ASPECT
        tokenizer = processor.tokenizer
        self.placeholder: str = processor.image_token
        """Stands for an image in a rendered template."""
        vocabulary = tokenizer.get_vocab()
        token = {number: text for text, number in vocabulary.items()}.get(settings.image_token_id)
        if self.placeholder not in vocabulary or token is None:
            raise ValueError(
                f"model.name={name}: expected the image token {self.placeholder!r} and image_token_id="
                f"{settings.image_token_id} in the vocabulary of its tokenizer, got {len(vocabulary)} tokens without"
            )
        self.token = token
        """Stands for one image token in the expanded text."""
        text = settings.get_text_config()
        rope = getattr(text, "rope_parameters", None) or {}
        self.axes = 3 if "mrope_section" in rope else 1
        bidirectional = getattr(text, "use_bidirectional_attention", None)
        self.block = settings.model_type == "gemma3" or bidirectional == "vision"
        self.block_layers: Blocks = "sliding" if bidirectional == "vision" else "all"
        self._open()

    @cached_property
    def most_tokens(self) -> int:
        """Tokens of the largest images that are tried, with those around them."""
        return max(map(self.length, LARGE))

    def __call__(self, data: bytes, where: str) -> Picture:
        """See `PictureReader`."""
        return self._read(open_image(data, where, self.max_aspect))

    def layout(self, size: tuple[int, int]) -> ImageLayout:
        """See `PictureReader`; a blank picture is put through the processor, once for every size."""
        return self._layouts(size)

    def length(self, size: tuple[int, int]) -> int:
        """See `PictureReader`; without a picture, where the processor's own count is right for those of `TRIED`."""
        if self._more is None:
            counts = [self._count(one) for one in TRIED]
            more = {self._size(self.layout(one)) - count for one, count in zip(TRIED, counts, strict=True)}
            self._more = more.pop() if len(more) == 1 and all(counts) else -1
        return self._count(size) + self._more if self._more >= 0 else self._size(self.layout(size))

    def stored(self, features: Tensor, layout: ImageLayout | None) -> Picture:
        """See `PictureReader`."""
        assert layout is not None, "features of another kind of model are refused when they are opened"
        return Picture({"features": features}, layout)

    def blank(self, size: tuple[int, int] = (64, 64)) -> Picture:
        """A picture of nothing."""
        return self._read(Image.new("RGB", size))

    def markers(self) -> list[str]:
        """Control tokens that may stand for an image and around its tokens."""
        added = self.processor.tokenizer.added_tokens_decoder.values()
        parts = [part for part in self.blank().layout.parts if isinstance(part, str)]
        around = {one.content for one in added if one.special or any(one.content in part for part in parts)}
        return sorted({self.placeholder, self.token, *around})

    def limited(self, max_aspect: float) -> HFReader:
        """The same, which refuses narrower images."""
        reader = copy(self)
        reader.max_aspect = max_aspect
        return reader

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: value
            for name, value in self.__dict__.items()
            if name not in ("_layouts", "_positions", "_model", "_more")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def _open(self) -> None:
        self._model = self._more = None
        self._layouts = lru_cache(maxsize=SIZES)(lambda size: self.blank(size).layout)
        self._positions = lru_cache(maxsize=SIZES)(self._positions_of_grid)

    def _read(self, image: Image.Image) -> Picture:
        out = self.processor(images=[image], text=self.placeholder, return_text_replacement_offsets=True)
        ((replacement,),) = out["text_replacement_offsets"]
        inputs = {name: _tensor(out[name]) for name in self.accepted if name in out}
        runs = re.split(f"((?:{re.escape(self.token)})+)", replacement["replacement"])
        parts = tuple(
            len(run) // len(self.token) if number % 2 else run for number, run in enumerate(runs) if number % 2 or run
        )
        layout = ImageLayout(parts, block=self.block)
        if self.axes > 1:
            grid = tuple(inputs["image_grid_thw"].flatten().tolist())
            positions, advance = self._positions(grid, layout.tokens)
            layout = ImageLayout(parts, positions, advance, self.block)
        return Picture(inputs, layout)

    def _positions_of_grid(self, grid: tuple[int, ...], tokens: int) -> tuple[np.ndarray, int]:
        """Positions [3, A] of an image's tokens, and how far it moves the text behind it; by the model's own code."""
        if self._model is None:
            with torch.device("meta"):
                self._model = AutoModelForImageTextToText.from_config(self.settings).model
        kinds = torch.tensor([[0] + [1] * tokens + [0]])
        ids = torch.where(kinds == 1, self.settings.image_token_id, 0)
        positions, _ = self._model.get_rope_index(ids, mm_token_type_ids=kinds, image_grid_thw=torch.tensor([grid]))
        inner = positions[:, 0].numpy() - 1  # counted from the image's beginning
        return inner[:, 1:-1], int(inner[0, -1])

    def _count(self, size: tuple[int, int]) -> int:
        """What the processor says of an image of this size, by a method that transformers keeps for vLLM; else 0."""
        try:
            counts = self.processor._get_num_multimodal_tokens(image_sizes=[size[::-1]])
            return int(counts["num_image_tokens"][0])
        except (AttributeError, TypeError, KeyError, IndexError, ValueError):
            return 0

    def _size(self, layout: ImageLayout) -> int:
        text = [part for part in layout.parts if isinstance(part, str)]
        return layout.tokens + sum(len(self.processor.tokenizer.tokenize(part)) for part in text)


def _tensor(value: Any) -> Tensor:
    """What a processor gives for one image, as a tensor whose first axis is that of images, tiles or patches."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, list | tuple) and value and isinstance(value[0], Tensor):
        return torch.stack(list(value))
    return torch.from_numpy(np.asarray(value))
