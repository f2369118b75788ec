"""The layers of a composed configuration: what each file gives, from the lowest to what was typed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from dress.base.config_folder import config_groups
from dress.base.errors import ConfigError
from dress.config.names import AMOUNTS
from dress.run.overrides import parsed

SCHEMA = "dress_train"
"""The first entry of the defaults list of configs/train.yaml."""
TYPED = "command line"
Layer = tuple[str, dict[str, Any]]
"""The place of a layer, and its values by dotted key."""


def layers(config_name: str, overrides: Sequence[str], hydra: Sequence[str] = ()) -> list[Layer]:
    """The layers above the schema, the lowest first; what was typed is one, the last.

    Args:
        config_name: file in the folder of configs, without `.yaml`.
        overrides: as Hydra got them.
        hydra: overrides of Hydra's own settings.
    """
    loader: Any = GlobalHydra.instance().config_loader()
    entries = loader.compute_defaults_list(config_name, [*hydra, *overrides], RunMode.RUN)
    given: list[Layer] = []
    for entry in entries.defaults:
        if entry.config_path in (None, SCHEMA) or str(entry.config_path).startswith("hydra/"):
            continue
        loaded = loader._load_single_config(entry, loader.repository)
        values = dict(leaves(OmegaConf.to_container(loaded.config, resolve=False)))
        given.append((f"configs/{entry.config_path}.yaml", values))
    typed: dict[str, Any] = {}
    groups = config_groups()
    for text in overrides:
        if (override := parsed(text)) and override.key_or_group not in groups:
            typed |= leaves({override.key_or_group: override.value()})
    return [*given, (TYPED, typed)]


def layers_of_the_job() -> list[Layer]:
    """The layers of the configuration with which Hydra runs this job."""
    job = HydraConfig.get()
    return layers(str(job.job.config_name), list(job.overrides.task), list(job.overrides.hydra))


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything in a mapping that is no mapping itself; an empty one counts as a value."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{prefix}.{key}" if prefix else str(key))
    elif prefix:
        yield prefix, value


def one_amount(composed: Any, of: Callable[[], list[Layer]]) -> None:
    """Leave each stage the amount that its highest layer gives, in steps or in epochs; the other becomes null.

    A scale gives steps, so epochs that an experiment or the command line gives would else stand beside them.

    Args:
        composed: settings, plain or as Hydra has them; changed in place.
        of: finds the layers; called only where a stage has both.

    Raises:
        ConfigError: one layer gives both; names them.
    """
    curriculum = composed.get("curriculum")
    stages = curriculum.get("stages") if isinstance(curriculum, Mapping) else None
    named = stages.items() if isinstance(stages, Mapping) else ()
    several = {
        f"curriculum.stages.{name}": stage
        for name, stage in named
        if isinstance(stage, MutableMapping) and all(stage.get(key) is not None for key in AMOUNTS)
    }
    given = of() if several else []
    for name, stage in several.items():
        keys = {key: f"{name}.{key}" for key in AMOUNTS}
        saying = ((place, values) for place, values in reversed(given) if set(keys.values()) & values.keys())
        place, top = next(saying, ("", {}))
        lower = [key for key in AMOUNTS if top.get(keys[key]) is None]
        if not lower:
            raise ConfigError(
                f"{' and '.join(f'{full}={top[full]}' for full in keys.values())}: expected one of them, got both "
                f"({place}). Take one away"
            )
        stage[lower[0]] = None
