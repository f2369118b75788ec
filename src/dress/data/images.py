"""Image bytes to RGB, with limits checked on the header before anything is decoded."""

from __future__ import annotations

import io
import struct
import warnings

from PIL import Image, UnidentifiedImageError

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
    image = header(data, where)
    try:
        return image.convert("RGB")
    except DAMAGE as error:
        raise undecodable(data, where, error) from None


def header(data: bytes, where: str) -> Image.Image:
    """The image, of which only the header is read.

    Raises:
        RecordError: as `open_image`, but for damage behind the header.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (UnidentifiedImageError, Image.DecompressionBombError, *DAMAGE) as error:
        raise undecodable(data, where, error) from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise RecordError(
            f"{where}: image is {width} x {height}; expected at most {MAX_PIXELS:,} pixels, "
            f"got {width * height:,}. Shrink it before writing the shard."
        )
    return image


def undecodable(data: bytes, where: str, error: Exception) -> RecordError:
    """What is raised about bytes that are no image."""
    why = "another format, or cut in the header" if isinstance(error, UnidentifiedImageError) else error
    return RecordError(
        f"{where}: expected a {', '.join(FORMATS)} image, got {len(data)} bytes that do not decode ({why})"
    )
