"""A stage's view of the one run that a tracker has of a whole curriculum."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from dress import config
from dress.run.panels import X_AXIS


class StageLogger(Logger):
    """Hands a stage's points on to the run, each once, however often the run goes on before its end.

    Args:
        settings: of the run.
        key: name of the logger in `logger`.
        last_step: file of the run folder that holds the last step that was logged.
    """

    def __init__(self, settings: config.Config, key: str, last_step: str) -> None:
        super().__init__()
        self.settings, self.key = settings, key
        self._file = Path(settings.run_dir) / last_step

    @property
    def save_dir(self) -> str:
        return self.settings.run_dir

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if self._is_new(metrics):
            self.log_point(metrics, step)

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The settings are given when the run opens."""

    @abstractmethod
    def log_point(self, metrics: dict[str, float], step: int | None) -> None:
        """Write a point that the run does not have."""

    def _is_new(self, point: Mapping[str, float]) -> bool:
        """Whether a point is later than all before, which is noted; so is one that is of no step."""
        now = point.get(X_AXIS)
        if now is None:
            return True
        if self._file.exists() and now <= float(self._file.read_text(encoding="utf-8") or -1):
            return False
        self._file.write_text(f"{now:g}", encoding="utf-8")
        return True
