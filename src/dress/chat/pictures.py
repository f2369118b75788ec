"""The pictures that people ask about: files that are named by their hash."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from dress.base.files import image_extension, write_aside
from dress.data.images import animated, header, open_image
from dress.data.index import IMAGE_EXTENSIONS

FOLDER = "images"
"""Of the pictures, beside the journal."""


class Pictures:
    """The pictures of a folder of feedback.

    Args:
        out: the folder.
    """

    def __init__(self, out: Path) -> None:
        self.folder = out / FOLDER
        self.folder.mkdir(exist_ok=True)

    def add(self, data: bytes) -> dict[str, Any]:
        """Keep a picture; what the page is told of it.

        Raises:
            ImageError: no picture, or too large, or damaged.
            OSError: no room for it.
        """
        animation = animated(header(data, "picture"))
        width, height = open_image(data, "picture").size
        return {"picture": self.keep(data), "width": width, "height": height, "animated": animation}

    def keep(self, data: bytes) -> str:
        """Write a picture's file, unless it is there; returns its SHA-256."""
        name = hashlib.sha256(data).hexdigest()
        if self.file(name) is None:
            with write_aside(self.folder / f"{name}.{image_extension(data)}") as aside:
                aside.write_bytes(data)
        return name

    def file(self, name: str) -> Path | None:
        """The file of a picture, by its SHA-256."""
        files = (self.folder / f"{name}.{extension}" for extension in IMAGE_EXTENSIONS)
        return next((file for file in files if file.exists()), None)

    def read(self, name: str | None) -> bytes | None:
        """The bytes of a picture; None where there is none."""
        file = None if name is None else self.file(name)
        return None if file is None else file.read_bytes()
