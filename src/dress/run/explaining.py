"""A command line that does not compose, explained in one line with the nearest thing that exists."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf

from dress import config
from dress.base.config_folder import CONFIGS, config_files, config_groups
from dress.config.migration import renamed
from dress.phases import PHASES
from dress.run.overrides import parsed

_CLASSES = {
    "optimizer": " Another class: optimizer._target_=torch.optim.NAdam",
    "scheduler": " Another class: scheduler._target_=PACKAGE.CLASS",
    "callbacks": " Another class: callbacks.NAME._target_=PACKAGE.CLASS",
    "logger": " Another class: logger.NAME._target_=PACKAGE.CLASS; none: logger=[]",
}
"""What groups of classes take beside their options."""


def explain(error: Exception, config_name: str, typed: list[str]) -> str:
    """One line about what Hydra refused, with the nearest thing that exists.

    Args:
        error: Hydra's.
        config_name: the configuration that was composed.
        typed: the arguments of the command.
    """
    text = str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        file = error.missing_cfg_file
        group = next((one for one in config_groups() if file.startswith(f"{one}/")), file.rpartition("/")[0])
        option, options = file.removeprefix(group)[1:], sorted(config_files(group))
        if group == "data" and ("/" in option or Path(option).exists()):
            listed = f"expected one of {', '.join(options)}"
            return f"data={option}: {listed}. A folder of shards: data=shards data.path={option}"
        if group and options:
            listed = f" There are: {', '.join(options)}.{_CLASSES.get(group, '')}"
            return f"{group}={option}: no such option.{config.nearest(option, options)}{listed}"
    unknown = re.search(r"Could not (?:override|delete from config\.) '([^']+)'", text)
    if unknown:
        key = unknown[1]
        if message := renamed(key) or config.foreign(key):
            return message
        if key in config.valid_keys():
            return f"{key}: stands in no file of this configuration; add it with +{key}=…"
        known = _known_keys(config_name, typed)
        stages = {other.split(".")[2] for other in known if re.match(r"curriculum\.stages\.[^.]+\.", other)}
        message = config.unknown_in_stages(key, sorted(stages), list(PHASES))
        return message or f"{key}: no such setting.{config.nearest(key, known)}"
    if isinstance(error, OverrideParseException):
        bad = next(filter(unreadable, typed), None)
        if bad and "=" not in bad:
            after = typed[typed.index(bad) + 1 : typed.index(bad) + 2]
            groups = [group for group in config_groups() if bad in config_files(group)]
            meant = [f"{bad}={value}" for value in after if "=" not in value] or [f"{group}={bad}" for group in groups]
            return f"{bad}: expected key=value" + (f", {meant[0]}" if meant else "")
        why = text.splitlines()[0]
        return f"{bad or ''}: cannot be read ({why}); quote special characters: 'key=\"value\"'"
    several = re.match(r"Ambiguous value for argument '([^']+)'", text)
    if several:
        return f"{several[1]}: several values; add -m for one run each, or brackets for a list"
    return " ".join(line.strip() for line in text.splitlines() if "hydra.cc" not in line)


def _known_keys(config_name: str, typed: list[str]) -> list[str]:
    """Groups, every key of the composed files, and every optional key."""
    groups = config_groups()
    choices = [text for text in typed if text.partition("=")[0] in groups and "," not in text]
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        try:
            composed = hydra.compose(config_name, overrides=choices)
        except HydraException:
            composed = hydra.compose(config_name)
    return [*groups, *_flat(OmegaConf.to_container(composed)), *config.valid_keys()]


def _flat(values: Any, prefix: str = "") -> Iterable[str]:
    for key, value in values.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")


def unreadable(text: str) -> bool:
    """Whether an argument is neither an option of Hydra's nor a setting."""
    return not text.startswith("-") and parsed(text) is None
