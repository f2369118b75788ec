"""Images are what people see; the fast path is the exact one to two levels, and equal where nothing is resized."""

from __future__ import annotations

import io
import struct
import time
import zlib

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from dress.data.images import MAX_CHUNKS, MAX_SCANS, animated, header, open_image, orientation, rgb
from dress.data.pixels import Pixels, decode, hidden_share, resize_note
from dress.model.vision import RESIZE_MODES, _transform
from dress.record import RecordError
from dress.worlds.shapes import generate as shapes

RED, GREEN, BLUE, BLACK, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0), (255, 255, 255)
PLAIN = {"mean": (0.0,) * 3, "std": (1.0,) * 3}


def both(**settings) -> tuple[Pixels, Pixels]:
    """(fast, exact) for OpenCLIP's preprocessing with these settings."""
    wanted = open_clip.transform.PreprocessCfg(**settings)
    transform = _transform(wanted, {})
    fast, exact = (Pixels(vars(wanted), transform, mode) for mode in ("fast", "exact"))
    return fast, exact


def saved(image: Image.Image, kind: str = "PNG", **how) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **how)
    return out.getvalue()


def photo(mode: str = "RGB", kind: str = "JPEG", size: tuple[int, int] = (320, 240), **how) -> bytes:
    """Smooth noise, from coarse to fine, as photos have it."""
    rng = np.random.default_rng(0)
    image = np.zeros((size[1], size[0], 3))
    for step in (64, 16, 4):
        coarse = rng.integers(0, 256, (size[1] // step + 1, size[0] // step + 1, 3), np.uint8)
        image += np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)) * (step / 84)
    return saved(Image.fromarray(image.clip(0, 255).astype(np.uint8)).convert(mode), kind, **how)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows: list[bytes], width: int, depth: int, colour: int, *extra: bytes) -> bytes:
    """A PNG of raw rows, so that kinds that Pillow does not write are there, too."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + data + chunk(b"IEND", b"")


def words(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


# --- what people see -----------------------------------------------------------------------------------


def flag() -> Image.Image:
    """Red, green above blue, white: four squares of 8 pixels."""
    image = Image.new("RGB", (16, 16))
    for n, colour in enumerate((RED, GREEN, BLUE, WHITE)):
        image.paste(colour, (8 * (n % 2), 8 * (n // 2), 8 * (n % 2) + 8, 8 * (n // 2) + 8))
    return image


def turned(orientation: int) -> Image.Image:
    """The flag as a camera stores it that notes this orientation: the inverse of setting it upright."""
    stored = {
        2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90",
        7: "TRANSVERSE", 8: "ROTATE_270",
    }  # fmt: skip
    return flag().transpose(Image.Transpose[stored[orientation]]) if orientation in stored else flag()


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


FLAG = [RED, GREEN, BLUE, WHITE]
LOSSLESS = {"quality": 100, "subsampling": 0}
SEEN: dict[str, tuple[bytes, list[tuple[int, int, int]]]] = {
    "rgb png": (saved(flag()), FLAG),
    "rgb jpeg": (saved(flag(), "JPEG", **LOSSLESS), FLAG),
    "progressive jpeg": (saved(flag(), "JPEG", progressive=True, **LOSSLESS), FLAG),
    "jpeg 4:2:0": (saved(flag(), "JPEG", quality=100, subsampling=2), FLAG),
    "webp": (saved(flag(), "WEBP", lossless=True), FLAG),
    "palette": (saved(flag().convert("P", palette=Image.Palette.ADAPTIVE)), FLAG),
    "cmyk jpeg": (saved(flag().convert("CMYK"), "JPEG", **LOSSLESS), FLAG),
    "mpo": (saved(flag(), "MPO", save_all=True, append_images=[Image.new("RGB", (16, 16))], **LOSSLESS), FLAG),
    **{f"exif {n} jpeg": (saved(turned(n), "JPEG", exif=exif(n), **LOSSLESS), FLAG) for n in range(1, 9)},
    "exif 6 png": (saved(turned(6), exif=exif(6)), FLAG),
    "exif 8 webp": (saved(turned(8), "WEBP", lossless=True, exif=exif(8)), FLAG),
    "exif 9, which is none": (saved(flag(), "JPEG", exif=exif(9), **LOSSLESS), FLAG),
    "broken exif": (saved(flag(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff", **LOSSLESS), FLAG),
    "grey": (saved(Image.new("L", (2, 2), 77)), [(77,) * 3] * 4),
    "grey jpeg": (saved(Image.new("L", (16, 16), 77), "JPEG"), [(77,) * 3] * 4),
    "1 bit": (saved(Image.fromarray(np.array([[1, 0], [0, 1]], bool))), [WHITE, BLACK, BLACK, WHITE]),
    "2 bits": (png([b"\x10", b"\xb0"], 2, 2, 0), [BLACK, (85,) * 3, (170,) * 3, WHITE]),
    "16 bits": (png([words(0, 257), words(32768, 65535)], 2, 16, 0), [BLACK, (1,) * 3, (128,) * 3, WHITE]),
    "16 bits, half a level": (png([words(128, 129), words(65406, 65407)], 2, 16, 0),
                              [BLACK, (1,) * 3, (254,) * 3, WHITE]),
    "16 bits rgb": (png([words(65535, 0, 0, 0, 65535, 0), words(0, 0, 65535, 65535, 65535, 65535)], 2, 16, 2), FLAG),
    "16 bits grey and alpha": (png([words(0, 65535, 0, 0), words(65535, 65535, 0, 32768)], 2, 16, 4),
                               [BLACK, WHITE, WHITE, (127,) * 3]),
    "16 bits rgba": (png([words(65535, 0, 0, 65535, 0, 0, 0, 0), words(0, 0, 65535, 65535, 0, 0, 0, 32768)], 2, 16, 6),
                     [RED, WHITE, BLUE, (127,) * 3]),
    "16 bits, one clear": (png([words(0, 500), words(501, 65535)], 2, 16, 0, chunk(b"tRNS", words(500))),
                           [BLACK, WHITE, (2,) * 3, WHITE]),
    "grey, one clear": (png([b"\x00\x0a", b"\x0b\xff"], 2, 8, 0, chunk(b"tRNS", words(10))),
                        [BLACK, WHITE, (11,) * 3, WHITE]),
    "1 bit, white is clear": (png([b"\x80", b"\x40"], 2, 1, 0, chunk(b"tRNS", words(1))), [WHITE, BLACK, BLACK, WHITE]),
    "1 bit, black is clear": (png([b"\x80", b"\x40"], 2, 1, 0, chunk(b"tRNS", words(0))), [WHITE] * 4),
    "2 bits, one clear": (png([b"\x10", b"\xb0"], 2, 2, 0, chunk(b"tRNS", words(1))),
                          [BLACK, WHITE, (170,) * 3, WHITE]),
    "rgb, one clear": (png([bytes((*RED, *GREEN)), bytes((*BLUE, *BLACK))], 2, 8, 2, chunk(b"tRNS", words(0, 0, 0))),
                       [RED, GREEN, BLUE, WHITE]),
    "16 bits rgb, one clear": (
        png([words(0x1234, 0, 0, 0, 65535, 0), words(0, 0, 65535, 0, 0, 0)], 2, 16, 2,
            chunk(b"tRNS", words(0x1234, 0, 0))), [WHITE, GREEN, BLUE, BLACK]),
    "rgba": (png([bytes((*RED, 255, *GREEN, 255)), bytes((*BLACK, 0, 0, 0, 0, 51))], 2, 8, 6),
             [RED, GREEN, WHITE, (204,) * 3]),
    "grey and alpha": (png([bytes((9, 255, 0, 0)), bytes((255, 0, 0, 51))], 2, 8, 4),
                       [(9,) * 3, WHITE, WHITE, (204,) * 3]),
    "palette, one clear": (
        png([b"\0\1", b"\2\3"], 2, 8, 3, chunk(b"PLTE", bytes((*RED, *GREEN, *BLUE, *BLACK))),
            chunk(b"tRNS", b"\xff\xff\xff\0")), [RED, GREEN, BLUE, WHITE]),
    "palette with alpha": (
        png([b"\0\1", b"\2\3"], 2, 8, 3, chunk(b"PLTE", bytes((*RED, *GREEN, *BLUE, *BLACK))),
            chunk(b"tRNS", b"\xff\x00\xff\x33")), [RED, WHITE, BLUE, (204,) * 3]),
    "webp with alpha": (saved(Image.new("RGBA", (2, 2), (0, 0, 0, 0)), "WEBP", lossless=True), [WHITE] * 4),
    "animated png": (saved(flag(), save_all=True, append_images=[Image.new("RGB", (16, 16))]), FLAG),
    "animated webp": (saved(flag(), "WEBP", save_all=True, append_images=[Image.new("RGB", (16, 16))], lossless=True),
                      FLAG),
}  # fmt: skip


@pytest.mark.parametrize("name", SEEN)
def test_pixels_are_what_people_see(name):
    data, expected = SEEN[name]
    image = open_image(data, "")
    width, height = image.size
    places = [(x, y) for y in (height // 4, height - 1 - height // 4) for x in (width // 4, width - 1 - width // 4)]
    got = [image.getpixel(place) for place in places]
    away = np.abs(np.array(got, int) - np.array(expected, int)).max()
    assert image.mode == "RGB" and away <= (3 if "jpeg" in name or name == "mpo" or "exif" in name else 0), got
    fast = decode(data, "").permute(1, 2, 0).numpy()
    assert np.array_equal(fast, np.asarray(image)), "fast and exact differ"


def test_further_modes():
    wide = Image.fromarray(np.array([[0, 65535]], np.int32), "I")
    for image in (wide, wide.convert("I;16"), Image.frombytes("I;16B", (2, 1), words(0, 65535))):
        assert [rgb(image).getpixel((x, 0)) for x in (0, 1)] == [BLACK, WHITE], image.mode
    with pytest.raises(ValueError, match="floating point"):
        rgb(Image.new("F", (1, 1)))


def test_inverted_cmyk_of_adobe_is_read_as_adobe_means_it():
    """Photoshop writes 255 - ink and says so in an APP14 marker; with transform 2 as YCCK."""
    data = saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", **LOSSLESS)
    assert b"Adobe" in data[:200]
    assert max(abs(a - b) for a, b in zip(open_image(data, "").getpixel((8, 8)), RED, strict=True)) <= 2
    at = data.index(b"Adobe") + 11
    assert data[at] == 0
    ycck = data[:at] + b"\2" + data[at + 1 :]  # the same numbers, meant as luma and chroma
    assert Image.open(io.BytesIO(ycck)).mode == "CMYK"
    assert np.array_equal(decode(ycck, "").permute(1, 2, 0).numpy(), np.asarray(open_image(ycck, "")))
    assert open_image(ycck, "").getpixel((8, 8)) != open_image(data, "").getpixel((8, 8))


def test_animations_are_told_from_pictures():
    moving = {name for name, (data, _) in SEEN.items() if animated(header(data, ""))}
    assert moving == {"animated png", "animated webp"}


# --- limits --------------------------------------------------------------------------------------------


def scans(number: int) -> bytes:
    """A progressive JPEG of one block whose last scan stands there again and again."""
    data = saved(Image.new("L", (8, 8), 99), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * number + b"\xff\xd9"


def chunks(number: int) -> bytes:
    return png([b"\0"], 1, 8, 0, chunk(b"tEXt", b"a\0b") * number)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (scans(2000), f"more than {MAX_SCANS} JPEG scans"),
        (chunks(1_000_000), f"more than {MAX_CHUNKS:,} PNG chunks"),
        (saved(Image.new("1", (201, 1))), "aspect ratio of at most 1:200"),
        (saved(Image.new("1", (1, 100_000))), r"aspect ratio of at most 1:200 \(max_aspect\), got 1:1e\+05"),
        (png([b"\0"], 1, 8, 0, chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(80_000_000)))), "do not decode"),
        (b"GIF89a" + bytes(99), "expected a JPEG, PNG, WEBP image"),
        (b"", "got 0 bytes"),
    ],
    ids=["scans", "chunks", "wide", "narrow", "iccp bomb", "gif", "empty"],
)
def test_what_is_beyond_a_limit_is_named_at_once(data, said):
    began = time.monotonic()
    for read in (open_image, decode):
        with pytest.raises(RecordError, match=rf"a\.tar: k: .*{said}"):
            read(data, "a.tar: k")
    assert time.monotonic() - began < 2


def test_what_is_within_the_limits_is_read():
    assert open_image(saved(Image.new("1", (200, 1))), "").size == (200, 1)
    assert open_image(saved(Image.new("1", (300, 1))), "", max_aspect=300).size == (300, 1)
    assert open_image(chunks(1000), "").size == (1, 1)
    assert open_image(scans(20), "").size == (8, 8)
    thumbnail = b"\xff\xe2" + struct.pack(">H", 2 + 400) + b"\xff\xda" * 200  # no scans of this picture
    picture = saved(flag(), "JPEG")
    assert open_image(picture[:2] + thumbnail + picture[2:] + b"\xff\xda" * 200, "").size == (16, 16)


# --- resizing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [{"resize_mode": "squash"}, {}, {"interpolation": "bilinear"}, {"resize_mode": "longest", "fill_color": 120}],
    ids=str,
)
@pytest.mark.parametrize("size", [(320, 240), (241, 333)], ids=str)
def test_fast_pixels_are_two_levels_from_openclips_at_most(settings, size):
    fast, exact = both(size=168, **settings)
    data = photo(size=size)
    levels = (fast(data, "") - exact(data, "")).abs() * fast.std * 255
    uneven = size[0] % 8 and "resize_mode" in settings  # sides shrink by different, broken factors
    assert fast.fast and levels.max() < 2.01 and levels.mean() < (0.2 if uneven else 0.05)
    assert levels.max() > 0 or "interpolation" in settings, "another way than OpenCLIP's"


def test_padding_is_openclips_own():
    wanted = open_clip.transform.PreprocessCfg(size=(48, 65), resize_mode="longest", fill_color=9, **PLAIN)
    theirs = open_clip.transform.image_transform_v2(wanted, is_train=False)
    for size in ((100, 31), (33, 90), (48, 48)):
        image = open_image(photo(kind="PNG", size=size), "")
        assert torch.equal(_transform(wanted, {})(image), theirs(image)), size
    wanted.size = 48
    for pixels in both(**vars(wanted)):
        assert pixels(saved(Image.new("RGB", (200, 1), RED)), "").shape == (3, 48, 48), "one row at least"


@pytest.mark.parametrize("mode", [0, 1], ids=["fast", "exact"])
def test_crop_squash_and_pad(mode):
    """Three vertical stripes in a picture three times as wide as high."""
    image = np.repeat(np.array([RED, GREEN, BLUE], np.uint8)[None], 48, 0).repeat(48, 1)
    data = saved(Image.fromarray(image))

    def column(way: str) -> list[list[int]]:
        pixels = both(size=48, resize_mode=RESIZE_MODES[way], fill_color=128, **PLAIN)[mode](data, "")
        return [(pixels[:, y, x] * 255).round().int().tolist() for y, x in ((24, 4), (24, 24), (24, 44), (2, 24))]

    assert column("crop") == [list(GREEN)] * 4
    assert column("squash") == [list(RED), list(GREEN), list(BLUE), list(GREEN)]
    assert column("pad") == [list(RED), list(GREEN), list(BLUE), [128] * 3]


def test_what_a_crop_hides_is_told():
    crop = {"size": 48, "resize_mode": "shortest"}
    assert hidden_share(640, 480, crop) == pytest.approx(0.25)
    assert hidden_share(480, 640, crop) == pytest.approx(0.25)
    assert hidden_share(640, 480, {"size": (30, 40), "resize_mode": "shortest"}) == pytest.approx(0)
    assert hidden_share(640, 480, {"size": 48, "resize_mode": "squash"}) == 0
    wide, square = photo(size=(64, 48)), photo(size=(48, 48))
    assert "hides 12.5 % of an evaluated image's area on average (at most 25.0 %)" in resize_note([wide, square], crop)
    assert "resize: pad); nothing is cut away" in resize_note([wide], {"size": 48, "resize_mode": "longest"})
    assert resize_note([b"no image"], crop) is None
    lying = saved(Image.new("RGB", (40, 80)), "JPEG", exif=exif(6))  # seen as 80 x 40
    assert "at most" not in resize_note([lying], {"size": (40, 80), "resize_mode": "shortest"})


@pytest.mark.parametrize(
    "data", [photo("L"), photo("CMYK"), photo("RGBA", "PNG"), photo("P", "PNG"), photo(kind="WEBP")],
    ids=["grey", "cmyk", "alpha", "palette", "webp"],
)  # fmt: skip
def test_every_mode_and_format_gives_what_openclip_gives(data):
    fast, exact = both(size=96, **PLAIN)
    assert ((fast(data, "") - exact(data, "")).abs() * 255).max() < 2.01


def test_where_nothing_is_resized_both_are_equal():
    fast, exact = both(size=48, resize_mode="squash", mean=(0.2,) * 3, std=(0.25,) * 3)
    for _, image in shapes.samples("sft", 3, seed=0):
        assert torch.equal(fast(image, ""), exact(image, ""))


def test_what_fast_does_not_know_goes_through_openclip():
    fast, exact = both(size=(48, 64))
    assert not fast.fast and torch.equal(fast(photo(), ""), exact(photo(), ""))


@pytest.mark.parametrize("mode", [0, 1], ids=["fast", "exact"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.95])
def test_a_cut_jpeg_is_named(mode, share):
    data = photo()
    with pytest.raises(RecordError, match=r"a\.tar: k: expected a JPEG, PNG, WEBP image, got \d+ bytes"):
        both(size=64)[mode](data[: int(len(data) * share)], "a.tar: k")


def test_orientation_of_every_file_is_a_number():
    for data, _ in SEEN.values():
        assert orientation(header(data, "")) in range(1, 9)
