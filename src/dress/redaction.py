"""Keys of accounts never reach a file or a screen: their values are replaced by the names of their variables."""

from __future__ import annotations

import os
import re
from typing import Any

SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL")
SHORTEST_SECRET = 8
"""Shorter values of such variables are words like `true`, and occur everywhere."""


def redacted(plain: Any, *names: str) -> Any:
    """The same data without the values of environment variables that are secret.

    Args:
        plain: strings, or dicts and lists of them; other values stay.
        names: of variables that are secret whatever they are called and however short their value is.
    """
    return replaced(plain, secrets(*names))


def secrets(*names: str) -> dict[str, str]:
    """Secret value to what stands in its place."""
    found = {
        value.strip(): f"<{name}>"
        for name, value in os.environ.items()
        if SECRET_NAME.search(name.upper()) and len(value) >= SHORTEST_SECRET
    }
    return found | {value: f"<{name}>" for name in names if (value := os.environ.get(name, "").strip())}


def replaced(plain: Any, found: dict[str, str]) -> Any:
    """The same data with every value of `found` replaced by its name."""
    if isinstance(plain, dict):
        return {key: replaced(value, found) for key, value in plain.items()}
    if isinstance(plain, list):
        return [replaced(value, found) for value in plain]
    if isinstance(plain, str):
        for value, name in found.items():
            plain = plain.replace(value, name)
    return plain
