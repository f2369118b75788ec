"""Worlds: sources of images whose content is known exactly.

A world is a package in here. When it is imported it registers its data (`registry.register`) and its rater
(`dress.rater.register`); nothing outside of it knows it but by the name that it registers under.
"""

from __future__ import annotations

import importlib
import pkgutil


def import_worlds() -> None:
    """Import every world, so that it registers."""
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        if module.ispkg:
            importlib.import_module(module.name)
