"""The tasks of `src/prepare.py`: the settings of each, and the module that does it, imported once they are checked."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from dress.base.errors import ConfigError
from dress.config import check_as
from dress.config.rows import RowMapping
from dress.config.tasks import Export, Features, Import, Index, Inspect, Task
from dress.run.composing import CONFIGS

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
    if settings is Import:
        composed = {**composed, "mapping": _mapping(composed)}
    checked = check_as(settings, composed)
    return checked, import_module(module).run


def _mapping(composed: dict[str, Any]) -> RowMapping | None:
    """The mapping that `source=` names: a file of that path, or `configs/source/NAME.yaml`; None where it is a format.

    Raises:
        ConfigError: no such file, no YAML, or a setting that does not exist or does not fit.
    """
    name = str(composed["source"])
    if name.endswith((".yaml", ".yml")):
        file = Path(name)
        if not file.is_file():
            raise ConfigError(f"source={name}: expected a file that says what the columns are, found none")
    else:
        folders = (Path("configs", "source"), CONFIGS / "source")
        file = next((path for folder in folders if (path := folder / f"{name}.yaml").is_file()), Path())
        if file == Path():
            return None
    try:
        stated = yaml.safe_load(file.read_text(encoding="utf-8"))
        if not isinstance(stated, dict):
            raise ValueError(f"expected settings, got {stated!r:.80}")
        return check_as(RowMapping, {"name": file.stem, **stated})
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: {' '.join(str(error).split())}") from None
