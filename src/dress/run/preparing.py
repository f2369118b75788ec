"""The tasks of `src/prepare.py`: the settings of each, and the module that does it, imported once they are checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import yaml

from dress.base.errors import ConfigError
from dress.config import check_as
from dress.config.rows import Format, RowMapping
from dress.config.tasks import Export, Features, Import, Index, Inspect, Merge, Photos, Task
from dress.config.types import Section

TASKS: dict[str, tuple[type[Task], str]] = {
    "import": (Import, "dress.sources.import_task"),
    "index": (Index, "dress.data.index_task"),
    "features": (Features, "dress.train.feature_extraction"),
    "export": (Export, "dress.exports.export_task"),
    "inspect": (Inspect, "dress.inspection.inspect_task"),
    "merge": (Merge, "dress.run.merging"),
    "photos": (Photos, "dress.model.packages"),
}
"""Task name to its settings and to the module whose `run(settings, console)` does it."""


def task(composed: dict[str, Any]) -> tuple[Task, Callable[..., Any]]:
    """The checked settings of the composed task, and its function.

    Raises:
        ConfigError: a setting that does not exist or does not fit.
    """
    settings, module = chosen(composed["task"], TASKS, "collect")
    checked = check_as(settings, _with_source(composed) if settings is Import else composed)
    return checked, import_module(module).run


Settings = TypeVar("Settings", bound=Section)


def chosen(name: str, tasks: Mapping[str, tuple[type[Settings], str]], other: str) -> tuple[type[Settings], str]:
    """The entry of a task.

    Args:
        name: of the task; `configs/task/` has the files of all commands.
        tasks: of the command.
        other: command that has the others.

    Raises:
        ConfigError: it is one of the other command.
    """
    if name not in tasks:
        raise ConfigError(f"task={name}: a task of src/{other}.py; expected one of {', '.join(tasks)}")
    return tasks[name]


def _with_source(composed: dict[str, Any]) -> dict[str, Any]:
    """The settings of an import with the name of its source, and what `configs/source/` or a file says of it.

    Raises:
        ConfigError: no such file, no YAML, or a setting that does not exist or does not fit.
    """
    stated = composed.get("source")
    if not isinstance(stated, dict):
        return composed
    if "format" in stated:
        known = check_as(Format, stated)
        return {**composed, "source": known.format, "licence": composed.get("licence") or known.licence}
    mapping = _read(Path(str(stated["file"]))) if "file" in stated else check_as(RowMapping, stated)
    return {**composed, "source": mapping.name, "mapping": mapping}


def _read(file: Path) -> RowMapping:
    try:
        stated = yaml.safe_load(file.read_text(encoding="utf-8"))
        if not isinstance(stated, dict):
            raise ValueError(f"expected settings, got {stated!r:.80}")
        return check_as(RowMapping, {"name": file.stem, **stated})
    except OSError as error:
        raise ConfigError(f"source={file}: expected a file that says what the columns are ({error.strerror})") from None
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: {' '.join(str(error).split())}") from None
