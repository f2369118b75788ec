"""`task=merge`: the parts of a task become what one process would have written."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console

from dress.base.errors import ConfigError
from dress.base.parts import read_parts
from dress.config.tasks import Merge

TASKS = {
    "import": "dress.sources.import_task",
    "features": "dress.train.feature_parts",
    "collect": "dress.feedback.parts",
}
"""Task to the module whose `merge(parts, settings, console)` does it."""


def run(settings: Merge, console: Console) -> Any:
    """Merge the parts below `settings.parts` into `settings.out`.

    Raises:
        ConfigError: a part is missing, unfinished, or of other input or settings than the first.
        ValueError: see the merge of the task.
    """
    folder, out = Path(settings.parts), Path(settings.out)
    if out.resolve().is_relative_to(folder.resolve()) or folder.resolve().is_relative_to(out.resolve()):
        raise ConfigError(f"out={out}: expected a folder beside parts={folder}, got one that holds it or lies in it")
    task, parts = read_parts(folder)
    if task not in TASKS:
        raise ConfigError(f"{parts[0].folder}: expected a part of {', '.join(TASKS)}, got one of {task!r:.40}")
    return import_module(TASKS[task]).merge(parts, settings, console)
