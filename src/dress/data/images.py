"""Image bytes to RGB as people see it, with limits checked before anything is decoded."""

from __future__ import annotations

import io
import re
import struct
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from dress.record import RecordError

DAMAGE = (
    OSError, SyntaxError, EOFError, IndexError, KeyError, TypeError, ValueError, OverflowError, MemoryError,
    struct.error,
)  # fmt: skip
"""What Pillow raises on files that are cut or malformed."""

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 40_000_000
"""Largest width x height that is decoded: 40 MP, about 120 MB as RGB."""
MAX_ASPECT = 200.0
"""Longer side ÷ shorter side, unless a setting (`max_aspect`) says otherwise."""
MAX_SCANS = 100
"""Of a JPEG: a progressive one has about ten, and each goes over the whole picture."""
MAX_CHUNKS = 20_000
"""Of a PNG: 64 MB in the 8 KB chunks that libpng writes are 8,192."""

UNUSABLE, NARROW = "image unusable", "image too narrow"

_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_NEW_SCAN, _END = 0xDA, 0xD9
_PNG = b"\x89PNG\r\n\x1a\n"


class ImageError(RecordError):
    """An image that cannot be used.

    Args:
        message: names file or shard and key, what was expected and what is there.
        reason: a few words, by which such images are counted.
    """

    def __init__(self, message: str, reason: str = UNUSABLE) -> None:
        super().__init__(message)
        self.reason = reason


def open_image(data: bytes, where: str, max_aspect: float = MAX_ASPECT) -> Image.Image:
    """Decode to RGB: upright, 16 bits scaled to 8, transparency on white, the first frame of an animation.

    Args:
        data: a whole JPEG, PNG or WebP file.
        where: shard and key to name in an error.
        max_aspect: longer side ÷ shorter side, at most.

    Raises:
        ImageError: not an image of these formats, cut short, or beyond a limit of this module.
    """
    image = header(data, where, max_aspect)
    try:
        upright = rgb(image)
    except DAMAGE as error:
        raise undecodable(data, where, error) from None
    turn = orientation(image)
    return upright if turn == 1 else upright.transpose(TURNS[turn])


def header(data: bytes, where: str, max_aspect: float = MAX_ASPECT) -> Image.Image:
    """The image, of which only the header is read.

    Raises:
        ImageError: as `open_image`, but for damage behind the header.
    """
    _check_parts(data, where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # bombs are refused below; a broken EXIF does not matter
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (UnidentifiedImageError, Image.DecompressionBombError, *DAMAGE) as error:
        raise undecodable(data, where, error) from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{where}: image is {width} x {height}; expected at most {MAX_PIXELS:,} pixels, "
            f"got {width * height:,}. Shrink it before writing the shard."
        )
    if max(width, height) > max_aspect * min(width, height):
        ratio = max(width, height) / max(min(width, height), 1)
        raise ImageError(
            f"{where}: image is {width} x {height}; expected an aspect ratio of at most 1:{max_aspect:g} "
            f"(max_aspect), got 1:{ratio:,.4g}",
            NARROW,
        )
    return image


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
"""What sets a picture upright, by its EXIF orientation."""


def orientation(image: Image.Image) -> int:
    """EXIF's, 1 (upright) to 8; 1 where there is none, or none that can be read: the picture is good without it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            turn = image.getexif().get(0x0112, 1)
    except DAMAGE:
        return 1
    return turn if turn in TURNS else 1


def upright_size(data: bytes, where: str, max_aspect: float = MAX_ASPECT) -> tuple[int, int]:
    """Width and height of an image as it is seen; only its header is read.

    Raises:
        ImageError: as `header`.
    """
    image = header(data, where, max_aspect)
    return image.size[::-1] if orientation(image) >= 5 else image.size


def animated(image: Image.Image) -> bool:
    """Whether it is an animation, of which the first frame is used. (A JPEG's further pictures are other views.)"""
    return image.format in ("PNG", "WEBP") and getattr(image, "n_frames", 1) > 1


def rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB: 16 bits scaled to 8, what is transparent on white.

    Raises:
        ValueError: a mode that says no range of values (F).
    """
    depth = next((tile.args for tile in getattr(image, "tile", ())), image.mode)  # of a PNG, its raw mode
    colour = image.info.get("transparency")
    if image.mode == "F":
        raise ValueError("expected pixels of 1 to 16 bits, got floating point")
    if image.mode in ("P", "PA"):
        return _on_white(image.convert("RGBA")) if colour is not None or image.mode == "PA" else image.convert("RGB")
    if image.mode in ("LA", "La", "RGBA", "RGBa"):
        return _on_white(image.convert("RGBA"))
    if image.mode == "1":
        image = image.convert("L")
    pixels = np.asarray(image)
    mask = None if colour is None else _opaque(pixels, colour, depth)
    if image.mode == "I" or image.mode.startswith("I;16"):
        wide = pixels.astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
    plain = image.convert("RGB")
    return plain if mask is None else Image.composite(plain, _white(plain.size), mask)


def _opaque(pixels: np.ndarray, colour: int | tuple[int, ...], depth: object) -> Image.Image:
    """A mask of the pixels that are not of a PNG's one transparent colour, which it states in the file's own depth."""
    level = np.asarray(colour)
    if depth == "RGB;16B":
        level = level >> 8
    elif depth in ("L;2", "L;4"):
        level = level * (85 if depth == "L;2" else 17)
    same = (pixels == level) if pixels.ndim == 2 else (pixels == level).all(-1)
    return Image.fromarray(np.where(same, 0, 255).astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    return Image.alpha_composite(_white(image.size).convert("RGBA"), image).convert("RGB")


def _white(size: tuple[int, int]) -> Image.Image:
    return Image.new("RGB", size, "white")


def undecodable(data: bytes, where: str, error: Exception) -> ImageError:
    """What is raised about bytes that are no image."""
    why = "another format, or cut in the header" if isinstance(error, UnidentifiedImageError) else error
    return ImageError(
        f"{where}: expected a {', '.join(FORMATS)} image, got {len(data)} bytes that do not decode ({why})"
    )


def _check_parts(data: bytes, where: str) -> None:
    """Refuse files that are small and take long: every scan of a JPEG and every chunk of a PNG costs its time."""
    if data.startswith(_PNG):
        number, most, what = _chunks(data), MAX_CHUNKS, "PNG chunks"
    elif data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > MAX_SCANS:  # also counts what lies elsewhere
        number, most, what = _scans(data), MAX_SCANS, "JPEG scans"
    else:
        return
    if number > most:
        raise ImageError(f"{where}: image has more than {most:,} {what}; expected at most that. Write it anew.")


def _chunks(data: bytes) -> int:
    """Of a PNG, counted to one above the limit."""
    at, number = len(_PNG), 0
    while at + 8 <= len(data) and number <= MAX_CHUNKS:
        size, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        at, number = at + 12 + size, number + 1
        if kind == b"IEND":
            break
    return number


def _scans(data: bytes) -> int:
    """Of a JPEG, without those of its thumbnails and of what follows its end."""
    at, number = 2, 0
    while (marker := _MARKER.search(data, at)) and (kind := data[marker.end() - 1]) != _END:
        number += kind == _NEW_SCAN
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])
    return number
