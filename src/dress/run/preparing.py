"""The tasks of `src/prepare.py`: the settings of each, and the module that does it, imported once they are checked."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from dress.config import check_as
from dress.config.tasks import Export, Features, Import, Index, Inspect, Task

TASKS: dict[str, tuple[type[Task], str]] = {
    "import": (Import, "dress.sources.import_task"),
    "index": (Index, "dress.data.index_task"),
    "features": (Features, "dress.train.feature_extraction"),
    "export": (Export, "dress.exports.export_task"),
    "inspect": (Inspect, "dress.inspection.inspect_task"),
}
"""Task name to its settings and to the module whose `run(settings, console)` does it."""


def task(composed: dict[str, Any]) -> tuple[Task, Callable[..., Any]]:
    """The checked settings of the composed task, and its function.

    Raises:
        ConfigError: a setting that does not exist or does not fit.
    """
    settings, module = TASKS[composed["task"]]
    checked = check_as(settings, composed)
    return checked, import_module(module).run
