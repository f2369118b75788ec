"""What a stage works with beside its task: none of it changes a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lightning.pytorch.loggers import Logger
from rich.console import Console

from dress import config
from dress.base.progress import CurriculumProgress
from dress.data.shards import Sample
from dress.evaluation.outcomes import Outcome
from dress.train.tasks import Task


class Loggers(Protocol):
    """Where curves and results go; the command line passes them in."""

    def begin(self, settings: config.Config) -> None:
        """The run begins.

        Args:
            settings: with what only the data could tell, such as the steps that epochs come to.
        """
        ...

    def of_stage(self, stage: str, resumed: bool, step: int) -> list[Logger]:
        """The loggers of one train stage.

        Args:
            stage: its name.
            resumed: it goes on where it was stopped, so that the points of its first part are kept.
            step: `curriculum/step` after which it goes on or begins; later points were of a part that was lost.
        """
        ...

    def stage_done(self, task: Task, folder: Path) -> None:
        """A stage has ended, now or before this process began.

        Args:
            task: what it received.
            folder: what it made.
        """
        ...

    def results(self, metrics: Mapping[str, Any], outcomes: Sequence[Outcome], samples: Sequence[Sample]) -> None:
        """The end of a run.

        Args:
            metrics: as in `metrics.json`.
            outcomes: every judged answer.
            samples: the evaluated records with image bytes, in order.
        """
        ...


class NoLoggers:
    """Nothing is logged; the run folder holds everything all the same."""

    def begin(self, settings: config.Config) -> None:
        """Nothing is noted."""

    def of_stage(self, stage: str, resumed: bool, step: int) -> list[Logger]:
        """None."""
        return []

    def stage_done(self, task: Task, folder: Path) -> None:
        """Nothing is noted."""

    def results(self, metrics: Mapping[str, Any], outcomes: Sequence[Outcome], samples: Sequence[Sample]) -> None:
        """Go nowhere."""


@dataclass(frozen=True)
class Tools:
    """What every stage works with.

    Attributes:
        console: for tables.
        progress: shows how far the stage is.
        devices: of the run.
        loggers: get the curves.
    """

    console: Console
    progress: CurriculumProgress
    devices: config.Devices
    loggers: Loggers
