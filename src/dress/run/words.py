"""Command lines of commands that compose nothing: words, and settings as key=value."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dress.base.errors import ConfigError
from dress.config import check_as
from dress.config.nearest import nearest
from dress.run.overrides import parsed


def words_and_settings(typed: Sequence[str], schema: type[BaseModel]) -> tuple[list[str], dict[str, Any]]:
    """What stands alone, and the settings; a file that exists is a word, whatever its name.

    Args:
        typed: behind the command.
        schema: of the settings; its names are known.

    Raises:
        ConfigError: a setting that does not exist or does not fit.
    """
    known = list(schema.model_fields)
    words: list[str] = []
    settings: dict[str, Any] = {}
    for text in typed:
        name, equals, _ = text.partition("=")
        name = name.lstrip("-").replace("-", "_")
        if text != "-" and text.startswith("-") and (not equals or name not in known):
            raise ConfigError(f"{text}: settings are key=value, without dashes.{nearest(name, known)}")
        if not equals or not re.fullmatch(r"\w+", name) or Path(text).exists():
            words.append(text)
            continue
        override = parsed(text.lstrip("-"))
        if name not in known or override is None:
            raise ConfigError(
                f"{name}: no such setting.{nearest(name, known)}" if override else f"{text}: cannot be read"
            )
        settings[name] = override.value()
    check_as(schema, settings)
    return words, settings
