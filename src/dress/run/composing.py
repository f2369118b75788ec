"""Composing a configuration: the schema's defaults below the YAML files, and what was typed above them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from dress.base.config_folder import CONFIGS
from dress.base.errors import ConfigError
from dress.config.defaults import defaults
from dress.config.export import ExportCommand
from dress.config.run import Config
from dress.run.collecting import COLLECT_TASKS
from dress.run.layers import SCHEMA, layers, one_amount
from dress.run.overrides import CommandLineError, parsed, refuse_options, removal, replacing, with_choices
from dress.run.preparing import TASKS
from dress.run.quoting import quoted
from dress.run.searching import search_working_folder

PROVIDER = "the defaults of src/dress/config"

for _name, _section in ((SCHEMA, Config), ("dress_export", ExportCommand)):
    ConfigStore.instance().store(_name, defaults(_section), provider=PROVIDER)
for _name, (_task, _) in TASKS.items():
    _node = {**defaults(_task), "task": _name}
    _node.pop("mapping", None)  # made of `source`, never typed
    ConfigStore.instance().store(f"_{_name}", _node, "task", "_global_", provider=PROVIDER)
for _name, (_command, _) in COLLECT_TASKS.items():
    ConfigStore.instance().store(f"_{_name}", defaults(_command) | {"task": _name}, "task", "_global_", PROVIDER)


search_working_folder()


def arguments(typed: list[str]) -> list[str]:
    """What Hydra gets of what was typed.

    Raises:
        CommandLineError: a setting is taken out, or an option or a choice of a group that there is not.
    """
    refuse_options(typed)
    typed = with_choices(typed)
    if text := removal(typed):
        key = text.lstrip("~").partition("=")[0]
        raise CommandLineError(
            f"{text}: a setting has a value in every run; say which: {key}=… (null, where it may have none)"
        )
    short = [one for text in _with_runs(typed) for one in _file_of_source(text)]
    return replacing(_with_names_as_mappings([quoted(one) for one in short]))


def _with_runs(typed: list[str]) -> list[str]:
    """`compare=A,B`, which Hydra would take for a sweep, names two runs of suite=compare.

    Raises:
        CommandLineError: not two, or another suite beside them.
    """
    places = [number for number, text in enumerate(typed) if text.startswith("compare=")]
    if not places:
        return typed
    text = typed[places[-1]]
    value = text.removeprefix("compare=")
    runs = value.removeprefix("[").removesuffix("]") if value.startswith("[") else value
    names = [name.strip().strip("'\"") for name in runs.split(",")]
    if len(names) != 2 or not all(names):
        raise CommandLineError(f"{text}: expected two runs, got {len(list(filter(None, names)))}: compare=RUN_A,RUN_B")
    suites = [one.removeprefix("suite=") for one in typed if one.startswith("suite=")]
    if suites and suites[-1] != "compare":
        raise CommandLineError(f"{text}: expected suite=compare beside it, or none, got suite={suites[-1]}")
    quotes = ",".join("'" + name.replace("\\", "\\\\").replace("'", "\\'") + "'" for name in names)
    rest = [one for one in typed if not one.startswith(("compare=", "suite="))]
    return ["suite=compare", f"compare=[{quotes}]", *rest]


def _file_of_source(text: str) -> list[str]:
    """`source=PATH.yaml` names a mapping outside of `configs/source/`."""
    match = re.fullmatch(r"source=(.+\.ya?ml)", text)
    return ["source=file", f"source.file='{match[1]}'"] if match else [text]


_ADDED = re.compile(r"\+*(curriculum\.stages\.[^.=]+\.(?:phases|data))\.[^=]+=.*", re.DOTALL)
"""An argument that adds to what a stage has."""


def _with_names_as_mappings(typed: list[str]) -> list[str]:
    """The arguments; before one that adds to a single name (`phases: sft`) that name as a mapping, which it else ends.

    Hydra would put the mapping in the name's place, and the name would be gone without a word.
    """
    added = {match[1]: text for text in reversed(typed) if (match := _ADDED.fullmatch(text))}
    if not added:
        return typed
    others = [text for text in typed if not text.startswith("-") and not _ADDED.fullmatch(text) and parsed(text)]
    single = [text for text in others if not parsed(text).is_sweep_override()]  # type: ignore[union-attr]  # readable
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        try:
            composed = hydra.compose("train", overrides=replacing(single))
        except HydraException:  # said where all is composed
            return typed
    arguments = list(typed)
    for key, text in added.items():
        name = OmegaConf.select(composed, key)
        if isinstance(name, str):
            at = arguments.index(text)
            arguments[at:at] = [f"{key}={{{name}: 1.0}}"]
    return arguments


def compose(config_name: str, typed: list[str], configs: Path = CONFIGS) -> dict[str, Any]:
    """The composed and resolved configuration of a command, as plain data and not yet checked; see `composed`."""
    return plain(composed(config_name, typed, configs))


def composed(config_name: str, typed: list[str], configs: Path = CONFIGS) -> DictConfig:
    """The composed configuration of a command.

    Args:
        config_name: file in `configs` without `.yaml`.
        typed: the arguments of the command.
        configs: folder of the YAML files.

    Raises:
        CommandLineError, HydraException: the arguments do not compose.
        ConfigError: an amount of a stage is given twice.
    """
    overrides = arguments(typed)
    with hydra.initialize_config_dir(str(configs), version_base="1.3"):
        settings = hydra.compose(config_name, overrides=overrides)
        one_amount(settings, lambda: layers(config_name, overrides))
        return settings


def plain(composed: DictConfig) -> dict[str, Any]:
    """Composed settings as resolved plain data.

    Raises:
        ConfigError: a value is missing or cannot be resolved; names the setting.
    """
    try:
        values = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        missing = isinstance(error, MissingMandatoryValue)
        message = f"no value. Give one: {error.full_key}=…" if missing else str(error).splitlines()[0]
        raise ConfigError(f"{error.full_key}: {message}") from None
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}
