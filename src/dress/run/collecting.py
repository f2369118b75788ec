"""The tasks of `src/collect.py`: the settings of each, and where its function is, imported once they are checked."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from dress.config import CollectCommand, check_as
from dress.config.attacks import AttackCommand
from dress.config.types import Section
from dress.run.preparing import chosen

COLLECT_TASKS: dict[str, tuple[type[Section], str]] = {
    "collect": (CollectCommand, "dress.feedback.command"),
    "attack": (AttackCommand, "dress.attacks.attack_task"),
}
"""Task name to its settings and to the module whose `TASK_from(settings, console)` does it."""


def task(composed: dict[str, Any]) -> tuple[Section, Callable[..., Any]]:
    """The checked settings of the composed task, and its function.

    Raises:
        ConfigError: a setting that does not exist or does not fit.
    """
    name = composed["task"]
    settings, module = chosen(name, COLLECT_TASKS, "prepare")
    checked = check_as(settings, {key: value for key, value in composed.items() if key != "task"})
    return checked, getattr(import_module(module), f"{name}_from")
