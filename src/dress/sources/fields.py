"""What many formats do with a field of a row: image names, ratings, the mark that stands for the image."""

from __future__ import annotations

import math
import posixpath
from pathlib import PurePosixPath
from typing import Any

from dress.record import TOP_RATING, Original
from dress.sources.protocol import RowError

IMAGE_MARK = "<image>"
"""Stands for the image in a user's text; where the image stands is the chat format's business."""


def without_mark(text: str) -> str:
    """A text without `<image>` and the one line break or blank that parts it from the text; the rest as it stands."""
    for mark in (IMAGE_MARK + "\n", IMAGE_MARK + " "):
        if text.startswith(mark):
            text = text.removeprefix(mark)
            break
    for mark in ("\n" + IMAGE_MARK, " " + IMAGE_MARK):
        if text.endswith(mark):
            text = text.removesuffix(mark)
            break
    return text.replace(IMAGE_MARK, "")


def plain_path(value: Any, field: str = "image") -> str:
    """A file name as a row gives it, below a folder; `./a//b.jpg` is `a/b.jpg`.

    Raises:
        RowError: no text, or a path that leads out of the folder.
    """
    if not isinstance(value, str) or not value:
        raise RowError("bad field", f"{field}: expected a file name, got {value!r:.80}")
    path = PurePosixPath(value)
    if "\\" in value:
        expected = f"a name with slashes, {value.replace(chr(92), '/')!r:.80}"
        raise RowError("bad image name", f"{field}: expected {expected}, got {value!r:.80}")
    leads_out = path.is_absolute() or ".." in path.parts or "\0" in value or not path.name
    if leads_out or "\n" in value or max(len(part.encode()) for part in path.parts) > 255 or len(value) > 1000:
        raise RowError("bad image name", f"{field}: expected a name inside the images' folder, got {value!r:.80}")
    return posixpath.normpath(value)


def rating(value: Any, low: int, high: int, field: str = "rating") -> tuple[int, Original | None]:
    """A publisher's number (or its text) on the scale 1-4: the nearest, halves down, and the original.

    On the scale 1-4 itself it must be whole, and there is no original.

    Raises:
        RowError: no number, or outside of the scale.
    """
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not low <= number <= high or ((low, high) == (1, TOP_RATING) and number != int(number)):
        raise RowError("bad rating", f"{field}: expected a number {low}-{high}, got {value!r:.80}")
    if (low, high) == (1, TOP_RATING):
        return int(number), None
    mapped = math.ceil(1 + (TOP_RATING - 1) * (number - low) / (high - low) - 0.5)
    return max(1, mapped), Original(value=number, min=low, max=high)
