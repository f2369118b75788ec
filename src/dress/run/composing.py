"""Composing a configuration: the schema's defaults below the YAML files, and what was typed above them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from dress.base.errors import ConfigError
from dress.config.commands import CollectCommand
from dress.config.defaults import defaults
from dress.config.run import Config
from dress.run.overrides import replacing, taken_out

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
SCHEMA = "dress_train"
"""The first entry of the defaults list of configs/train.yaml."""

for _name, _section in ((SCHEMA, Config), ("dress_collect", CollectCommand)):
    ConfigStore.instance().store(_name, defaults(_section), provider="the defaults of src/dress/config")


class CommandLineError(ValueError):
    """What was typed cannot be done; the message says what can."""


def arguments(typed: list[str]) -> list[str]:
    """What Hydra gets of what was typed.

    Raises:
        CommandLineError: a setting is taken out.
    """
    if text := taken_out(typed, CONFIGS):
        key = text.lstrip("~").partition("=")[0]
        raise CommandLineError(
            f"{text}: a setting has a value in every run; say which: {key}=… (null, where it may have none)"
        )
    return replacing(typed)


def compose(config_name: str, typed: list[str], configs: Path = CONFIGS) -> dict[str, Any]:
    """The composed and resolved configuration of a command, as plain data and not yet checked.

    Args:
        config_name: file in `configs` without `.yaml`.
        typed: the arguments of the command.
        configs: folder of the YAML files.

    Raises:
        CommandLineError, HydraException: the arguments do not compose.
        ConfigError: a value is missing.
    """
    with hydra.initialize_config_dir(str(configs), version_base="1.3"):
        composed = hydra.compose(config_name, overrides=arguments(typed))
    return plain(composed)


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
