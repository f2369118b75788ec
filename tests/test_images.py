"""Pixels: the fast path is the exact one to two levels, and equal where nothing is resized."""

from __future__ import annotations

import io

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from dress.data.pixels import Pixels
from dress.record import RecordError
from dress.worlds.shapes import generate as shapes


def both(**settings) -> tuple[Pixels, Pixels]:
    """(fast, exact) for OpenCLIP's preprocessing with these settings."""
    wanted = open_clip.transform.PreprocessCfg(**settings)
    transform = open_clip.transform.image_transform_v2(wanted, is_train=False)
    fast, exact = (Pixels(vars(wanted), transform, mode) for mode in ("fast", "exact"))
    return fast, exact


def photo(mode: str = "RGB", kind: str = "JPEG", size: tuple[int, int] = (320, 240)) -> bytes:
    """Smooth noise, from coarse to fine, as photos have it."""
    rng = np.random.default_rng(0)
    image = np.zeros((size[1], size[0], 3))
    for step in (64, 16, 4):
        coarse = rng.integers(0, 256, (size[1] // step + 1, size[0] // step + 1, 3), np.uint8)
        image += np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)) * (step / 84)
    out = io.BytesIO()
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).convert(mode).save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize("settings", [{"resize_mode": "squash"}, {}, {"interpolation": "bilinear"}], ids=str)
@pytest.mark.parametrize("size", [(320, 240), (241, 333)], ids=str)
def test_fast_pixels_are_two_levels_from_openclips_at_most(settings, size):
    fast, exact = both(size=168, **settings)
    data = photo(size=size)
    levels = (fast(data, "") - exact(data, "")).abs() * fast.std * 255
    assert fast.fast and levels.max() < 2.01 and levels.mean() < 0.2


@pytest.mark.parametrize(
    "data", [photo("L"), photo("CMYK"), photo("RGBA", "PNG"), photo("P", "PNG"), photo(kind="WEBP")],
    ids=["grey", "cmyk", "alpha", "palette", "webp"],
)  # fmt: skip
def test_every_mode_and_format_gives_what_openclip_gives(data):
    fast, exact = both(size=96, mean=(0.0,) * 3, std=(1.0,) * 3)
    assert ((fast(data, "") - exact(data, "")).abs() * 255).max() < 2.01


def test_where_nothing_is_resized_both_are_equal():
    fast, exact = both(size=48, resize_mode="squash", mean=(0.2,) * 3, std=(0.25,) * 3)
    for _, image in shapes.samples("sft", 3, seed=0):
        assert torch.equal(fast(image, ""), exact(image, ""))


def test_what_fast_does_not_know_goes_through_openclip():
    for settings in ({"resize_mode": "longest"}, {"size": (48, 64)}):
        fast, exact = both(**{"size": 64, **settings})
        assert not fast.fast and torch.equal(fast(photo(), ""), exact(photo(), ""))


@pytest.mark.parametrize("mode", [0, 1], ids=["fast", "exact"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.95])
def test_a_cut_jpeg_is_named(mode, share):
    data = photo()
    with pytest.raises(RecordError, match=r"a\.tar: k: expected a JPEG, PNG, WEBP image, got \d+ bytes"):
        both(size=64)[mode](data[: int(len(data) * share)], "a.tar: k")
