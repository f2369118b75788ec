"""Settings are written into files that travel with the weights, so none may hold a secret."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from dress.base.errors import ConfigError
from dress.base.files import write_text
from dress.base.redaction import SECRET_NAME, hide, redacted, secrets
from dress.run.composing import CommandLineError
from dress.run.overrides import several_runs

LONG_SECRET = 16
"""Characters of a variable's value that is looked for in settings; shorter ones may be words."""
_OC_ENV = re.compile(r"oc\.env:\s*([A-Za-z_]\w*)")
_SECRET = (
    "{key}: the value of the variable {name} would be written into the run's files. Settings hold no secrets: "
    "name a variable where a key is needed (api_key_env={name})"
)


def refuse_secrets(composed: DictConfig, plain: Any) -> None:
    """Settings are written into files that travel with the weights.

    Raises:
        ConfigError: one of them is the value of a variable that holds a secret; names both.
    """
    public = dict(_leaves(hide(plain)))
    for key, text in _leaves(OmegaConf.to_container(composed, resolve=False)):
        for name in _OC_ENV.findall(text):
            value = os.environ.get(name, "").strip()
            if SECRET_NAME.search(name.upper()) and value and value in public.get(key, ""):
                raise ConfigError(_SECRET.format(key=key, name=name))
    values = {value: name.strip("<>") for value, name in secrets().items() if len(value) >= LONG_SECRET}
    for key, text in public.items():
        for value, name in values.items():
            if value in text and not Path(value).exists():
                raise ConfigError(_SECRET.format(key=key, name=name))


def _leaves(plain: Any, prefix: str = "") -> Iterable[tuple[str, str]]:
    """Dotted key and text of every string."""
    if isinstance(plain, str):
        yield prefix, plain
    elif isinstance(plain, dict | list):
        for key, value in plain.items() if isinstance(plain, dict) else enumerate(plain):
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))


def clean_hydra_files() -> None:
    """Take secrets out of what Hydra has written down of the command line."""
    settings = HydraConfig.get()
    if settings.output_subdir is None:
        return
    for file in (Path(settings.runtime.output_dir) / settings.output_subdir).glob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        if (public := redacted(text)) != text:
            write_text(file, public)


def refuse_secrets_in_sweeps(typed: list[str]) -> None:
    """Hydra shows and keeps the arguments of a sweep's jobs before any of ours runs.

    Raises:
        CommandLineError: one of them holds a secret.
    """
    shown = next((text for text, public in zip(typed, redacted(typed), strict=True) if public != text), None)
    if several_runs(typed) and shown is not None:
        raise CommandLineError(
            f"{redacted(shown)}: Hydra would write this secret down for every job of a sweep. "
            f"Start one run per setting, without -m"
        )
