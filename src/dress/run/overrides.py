"""What is typed, before Hydra sees it: a mapping of free keys replaces that of the files, no setting is taken out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, OverrideType
from hydra.errors import HydraException

FREE = r"curriculum\.stages\.[^.]+\.(?:phases|models|data)|data\.(?:align|sft|feedback)|model\.language\.config"
"""Mappings whose keys are free: what is given for one is all of it."""

_FREE = re.compile(FREE)
_MAY_GO = re.compile(rf"(?:{FREE})\..+|curriculum\.stages\.[^.]+|hydra(?:\..+)?")


def parsed(text: str) -> Override | None:
    """An override; None for an option of Hydra's and for what cannot be read."""
    if text.startswith("-"):
        return None
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException:
        return None


def replacing(typed: Sequence[str]) -> list[str]:
    """The arguments, with `++key=null` before each that gives a mapping of free keys: Hydra would merge the two."""
    arguments = []
    for text in typed:
        override = parsed(text)
        if override and override.type in (OverrideType.CHANGE, OverrideType.FORCE_ADD):
            key = override.key_or_group
            if _FREE.fullmatch(key) and _gives_several(override):
                # Not the same prefix twice: Hydra's sweeper keeps one override of each.
                arguments.append(f"++{key}=null")
                text = text.lstrip("+")
        arguments.append(text)
    return arguments


def _gives_several(override: Override) -> bool:
    value: Any = override.value()
    values = value.list if isinstance(value, ChoiceSweep) else [value]
    return any(isinstance(one, dict | list) for one in values)


def taken_out(typed: Sequence[str], configs: Path) -> str | None:
    """The first argument that takes out a setting, whose default would step in unseen; None if there is none.

    Args:
        typed: the arguments.
        configs: folder of the groups, which may be taken out.
    """
    for text in typed:
        override = parsed(text)
        if override is None or override.type != OverrideType.DEL:
            continue
        key = override.key_or_group
        if not (configs / key).is_dir() and not _MAY_GO.fullmatch(key):
            return text
    return None
