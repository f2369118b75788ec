"""What is typed, before Hydra sees it: what the schema allows needs no `+`, a mapping of free keys replaces another.

No setting is taken out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, OverrideType
from hydra.errors import HydraException

from dress.base.config_folder import config_files, config_groups
from dress.config.foreign import foreign

FREE = (
    r"curriculum\.stages\.[^.]+\.(?:phases|models|data)|data\.(?:align|sft|feedback)|model\.language\.config"
    r"|model\.projector|callbacks\.[^.]+|logger\.[^.]+|models|conditions"
)
"""Mappings whose keys are free: what is given for one is all of it."""
OPEN = (
    r"(?:trainer|optimizer|scheduler|callbacks|logger|annotator|attacker|judge|model|server|columns|rating)(?:\.[\w-]+)+"
    r"|curriculum\.stages\.[\w-]+(?:\.[\w-]+)+"
)
"""Keys that may stand in no file; whether they are settings is known when all is composed, and checked then."""

GROUPS = ("optimizer", "scheduler")
"""Groups whose options are mappings that may also be typed."""

_FREE, _OPEN = re.compile(FREE), re.compile(OPEN)
_MAY_GO = re.compile(rf"(?:{FREE})(?:\..+)?|curriculum\.stages\.[^.]+|hydra(?:\..+)?")


class CommandLineError(ValueError):
    """What was typed cannot be done; the message says what can."""


class OptionError(CommandLineError):
    """An option where a setting is expected: a command line that does not compose."""


_HYDRAS = (
    "-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "--resolve", "-p", "--package", "-r", "--run", "-m",
    "--multirun", "-sc", "--shell-completion", "-cd", "--config-dir", "-i", "--info", "--experimental-rerun",
)  # fmt: skip
"""Options that mean something here."""


def parsed(text: str) -> Override | None:
    """An override; None for an option of Hydra's and for what cannot be read."""
    if text.startswith("-"):
        return None
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException:
        return None


def several_runs(typed: Sequence[str]) -> str | None:
    """The first argument that makes several runs of a command (a sweep); None where it is one run."""
    for text in typed:
        key, _, value = text.lstrip("+").partition("=")
        searched = key == "hparams_search" and value not in ("none", "null", "false")
        if text in ("-m", "--multirun") or searched or (key == "hydra.mode" and value == "MULTIRUN"):
            return text
    return None


def argument(key: str, value: object) -> str:
    """An argument that gives a setting this text, also one with spaces or brackets."""
    text = str(value).replace('"', '\\"')
    return f'{key}="{text}"'


def replacing(typed: Sequence[str]) -> list[str]:
    """The arguments, with `++` where a key may stand in no file, and `++key=null` before each mapping of free keys.

    Hydra would refuse the first, and merge the second with what stands in files.
    """
    arguments = []
    for text in typed:
        override = parsed(text)
        if override and override.type in (OverrideType.CHANGE, OverrideType.ADD, OverrideType.FORCE_ADD):
            key = override.key_or_group
            if key in GROUPS and isinstance(override.value(), dict):
                arguments += _one_by_one(override)
                continue
            if _FREE.fullmatch(key) and _gives_several(override):
                # Not the same prefix twice: Hydra's sweeper keeps one override of each.
                arguments.append(f"++{key}=null")
                text = text.lstrip("+")
            elif _OPEN.fullmatch(key):
                text = f"++{text.lstrip('+')}"
        arguments.append(text)
    return arguments


def _one_by_one(override: Override) -> list[str]:
    """Overrides of the keys of a mapping; Hydra takes none for a group."""
    mapping: Any = override.value()
    return [f"++{override.key_or_group}.{key}={Override._get_value_element_as_str(mapping[key])}" for key in mapping]


def _gives_several(override: Override) -> bool:
    value: Any = override.value()
    values = value.list if isinstance(value, ChoiceSweep) else [value]
    return any(isinstance(one, dict | list) for one in values)


def removal(typed: Sequence[str]) -> str | None:
    """The first argument that takes out a setting, whose default would step in unseen; None if there is none.

    A group may be taken out.
    """
    groups = config_groups()
    for text in typed:
        override = parsed(text)
        if override is None or override.type != OverrideType.DEL:
            continue
        key = override.key_or_group
        if key not in groups and not _MAY_GO.fullmatch(key):
            return text
    return None


def refuse_options(typed: Sequence[str]) -> None:
    """Settings have no dashes.

    Raises:
        OptionError: an option that neither Hydra nor a command knows; says what to type.
    """
    for number, text in enumerate(typed):
        name, equals, value = text.partition("=")
        if not text.startswith("-") or name in _HYDRAS:
            continue
        if name in ("--config-name", "-cn", "--config-path", "-cp"):
            raise OptionError(
                f"{name}: the command's own file is always composed; choose experiment=NAME, or add a folder of files "
                f"with --config-dir DIR"
            )
        if not equals and number + 1 < len(typed) and "=" not in typed[number + 1]:
            value = typed[number + 1]
        key = name.lstrip("-").replace("-", "_")
        raise OptionError(foreign(key) or f"{name}: settings are key=value, without dashes: {key}={value or '…'}")


def with_choices(typed: Sequence[str]) -> list[str]:
    """The arguments; null and false of a group, which Hydra does not take, as the option that says none.

    Raises:
        CommandLineError: the group has no such option, or true was typed.
    """
    arguments, groups = [], config_groups()
    for text in typed:
        override = parsed(text)
        value: Any = override.value() if override and override.type != OverrideType.DEL else ""
        if override and (value is None or isinstance(value, bool)) and override.key_or_group in groups:
            group = override.key_or_group
            options = sorted(config_files(group))
            if not value and group == "logger":
                text = f"{group}=[]"
            elif not value and "none" in options:
                text = f"{group}=none"
            elif options:
                raise CommandLineError(f"{text}: expected one of {', '.join(options)}")
        arguments.append(text)
    return arguments


def options_last(arguments: Sequence[str]) -> list[str]:
    """The arguments with settings before options: between two settings Hydra's parser takes no option."""
    settings = [text for text in arguments if text.startswith("~") or ("=" in text and not text.startswith("-"))]
    return settings + [text for text in arguments if text not in settings]


def without_choice(command: str, typed: Sequence[str]) -> list[str]:
    """What help needs beside what was typed, where a command must choose an option before it says anything."""
    asks = {"-h", "--help"} & set(typed)
    stated = any(text.startswith(("source=", "task=")) for text in typed)
    return ["source=rows"] if asks and command == "prepare" and not stated else []
