"""Settings of DRESS 0.1: the new name of each old one, and the configuration of an old run under the new names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from dress.base.errors import ConfigError
from dress.config.learning import ADAMW, COSINE
from dress.config.migration_stages import migrate_curriculum
from dress.config.run import VERSION

RENAMED = {
    r"training\.accelerator": "trainer.accelerator",
    r"training\.devices": "trainer.devices",
    r"training\.strategy": "parallel.strategy",
    r"training\.precision": "trainer.precision",
    r"training\.clip": "trainer.gradient_clip_val",
    r"training\.log_every": "trainer.log_every_n_steps",
    r"training\.validate_every": "trainer.val_check_interval",
    r"model\.projector\.kind": "model.projector._target_ (torch.nn.Linear, dress.model.projector.MLP)",
    r"logger\.project": "logger.wandb.project",
    r"logger\.entity": "logger.wandb.entity",
    r"logger\.api_key_env": "logger.wandb.api_key_env",
    r"budget\.([\w-]+)\.([\w-]+)": r"curriculum.stages.\1.\2",
    r"budget\.([\w-]+)": r"curriculum.stages.\1",
    r"budget": "curriculum.stages",
    r"curriculum\.order": "what the stages name, and curriculum.run: the stages that are wanted (docs/stages.md)",
}
"""Patterns of old settings, to the new name."""

PROJECTORS = {"linear": "torch.nn.Linear", "mlp": "dress.model.projector.MLP"}
LOGGERS = {
    "csv": "lightning.pytorch.loggers.CSVLogger",
    "tensorboard": "lightning.pytorch.loggers.TensorBoardLogger",
    "wandb": "lightning.pytorch.loggers.WandbLogger",
}


def new_name(key: str) -> str | None:
    """What an old setting is called now; None where the key is no old setting."""
    for pattern, name in RENAMED.items():
        if match := re.fullmatch(pattern, key):
            return match.expand(name)
    return None


def renamed(key: str) -> str | None:
    """The message about an old setting; None where the key is no old setting."""
    name = new_name(key)
    return None if name is None else f"{key} is now {name}"


def is_old(saved: dict[str, Any]) -> bool:
    """Whether a config.json was written by DRESS 0.1."""
    return "version" not in saved


def refuse_old(saved: dict[str, Any], folder: Path, setting: str) -> None:
    """Let no run of DRESS 0.1 be gone on with: its stages were made from settings that are other ones now.

    Raises:
        ConfigError: it is one; names the setting that asked for it.
    """
    if is_old(saved):
        raise ConfigError(
            f"{setting}={folder}: a run of DRESS 0.1 can be evaluated, collected from and shown, but not gone on with; "
            f"train it again"
        )


def migrate(saved: dict[str, Any], file: Path) -> dict[str, Any]:
    """The settings in a config.json under today's names, with the same meaning.

    Args:
        saved: what the file holds.
        file: its name.

    Raises:
        ConfigError: a newer DRESS has written it.
    """
    if saved.get("version") == VERSION:
        return saved
    if not is_old(saved):
        raise ConfigError(
            f"{file}: version: expected {VERSION}, or none as DRESS 0.1 wrote, got {saved['version']!r:.40}. "
            f"Read it with the DRESS that made it"
        )
    old = {name: value for name, value in saved.items() if name not in ("training", "logger", "budget")}
    if isinstance(old.get("model"), dict):
        old["model"] = migrate_model(old["model"])
    return old | _learning(_mapping(saved, "training")) | {
        "version": VERSION, "logger": _loggers(_mapping(saved, "logger")), "curriculum": migrate_curriculum(saved)
    }  # fmt: skip


def migrate_model(model: dict[str, Any]) -> dict[str, Any]:
    """The `model` settings of a config.json or model.json, with the projector's class."""
    projector = model.get("projector", {})
    if not isinstance(projector, dict) or "kind" not in projector:
        return model
    return model | {"projector": {"_target_": PROJECTORS.get(projector["kind"], projector["kind"])}}


def _mapping(saved: dict[str, Any], name: str) -> dict[str, Any]:
    section = saved.get(name, {})
    return section if isinstance(section, dict) else {}


def _learning(training: dict[str, Any]) -> dict[str, Any]:
    """What stood under `training`, by the sections where it stands now."""
    sections: dict[str, Any] = {"trainer": {}, "parallel": {}, "training": {}, "optimizer": ADAMW, "scheduler": COSINE}
    for name, value in training.items():
        section, _, setting = (new_name(f"training.{name}") or f"training.{name}").partition(".")
        sections[section][setting] = value
    strategy = sections["parallel"].get("strategy", "auto")
    if strategy not in ("auto", "single"):  # Lightning's names of ddp: how processes were started
        sections["parallel"]["strategy"] = "ddp"
    return sections


def _loggers(logger: dict[str, Any]) -> dict[str, Any]:
    """The loggers that were switched on; runs that were begun when there was one have saved its kind."""
    names = [name for name in LOGGERS if logger.get(name) or logger.get("kind") == name]
    chosen = {name: {"_target_": LOGGERS[name]} for name in names}
    if "wandb" in chosen:
        chosen["wandb"] |= {n: logger[n] for n in ("project", "entity", "api_key_env") if logger.get(n) is not None}
    return chosen
