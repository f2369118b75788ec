"""`show=config`: every setting of a run, and where its value comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from dress import config
from dress.base.config_folder import config_groups
from dress.run.composing import SCHEMA
from dress.run.overrides import parsed

DEFAULT, TYPED = "default", "command line"
_WIDTH = 60


def show_config(settings: config.Config, places: Mapping[str, str]) -> None:
    """Print the settings as YAML, ready to be kept as a file; a comment says where a value comes from.

    Args:
        settings: of the run.
        places: see `origins`.
    """
    if settings.resume is not None:
        places = {key: place for key, place in places.items() if place == TYPED}
    rest = DEFAULT if settings.resume is None else f"{settings.resume}/config.json"
    for line, key in _lines(settings.model_dump()):
        place = _place(key, places, rest) if key else ""
        print(f"{line:<{_WIDTH}}  # {place}" if place else line)


def origins() -> dict[str, str]:
    """Dotted key of every value that a file or the command line gives, to the last that gives it."""
    loader: Any = GlobalHydra.instance().config_loader()
    job = HydraConfig.get()
    overrides = list(job.overrides.task)
    entries = loader.compute_defaults_list(str(job.job.config_name), [*job.overrides.hydra, *overrides], RunMode.RUN)
    places: dict[str, str] = {}
    for entry in entries.defaults:
        if entry.config_path in (None, SCHEMA) or str(entry.config_path).startswith("hydra/"):
            continue
        loaded = loader._load_single_config(entry, loader.repository)
        for key, _ in leaves(OmegaConf.to_container(loaded.config, resolve=False)):
            places[key] = f"configs/{entry.config_path}.yaml"
    groups = config_groups()
    for text in overrides:
        if (override := parsed(text)) and override.key_or_group not in groups:
            places[override.key_or_group] = TYPED
    return places


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything in a mapping that is no mapping itself; an empty one counts as a value."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{prefix}.{key}" if prefix else str(key))
    elif prefix:
        yield prefix, value


def _flow(value: Any) -> bool | None:
    """How YAML shows a value: lists in brackets."""
    return None if isinstance(value, list | dict) and value else False


def _place(key: str, places: Mapping[str, str], rest: str) -> str:
    """Where a value comes from: its own key, or a mapping above it that was given as one."""
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        if place := places.get(".".join(parts[:length])):
            return place
    if parts[0] in ("annotator", "judge") and f"{parts[0]}.kind" in places:
        return f"{places[f'{parts[0]}.kind']}, {DEFAULT}"
    return rest


def _lines(values: dict[str, Any], prefix: str = "", indent: str = "") -> Iterator[tuple[str, str]]:
    """YAML lines, and the key of the value that each shows; none for the line above a section."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value:
            yield f"{indent}{name}:", ""
            yield from _lines(value, f"{key}.", f"{indent}  ")
        else:
            text = yaml.safe_dump(
                {name: value}, default_flow_style=_flow(value), allow_unicode=True, width=10**6
            ).strip()
            yield f"{indent}{text}", key
