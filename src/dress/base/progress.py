"""One progress display for a whole command: which stage, which step, how long still."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from dress.base import run_log
from dress.base.terminal import visible

LINE_EVERY = 15.0
"""Seconds between lines where the output is no terminal."""
PACE_OVER = 120.0
"""Seconds that the measured pace looks back."""


class Advance(Protocol):
    """What work calls as it goes on: with how many more things are done, and a line about how it goes."""

    def __call__(self, n: int = 1, info: str = "") -> None: ...


def ignore(n: int = 1, info: str = "") -> None:
    """Progress that nobody watches."""


class CurriculumProgress:
    """Bars on a terminal, a line now and then elsewhere; times left are measured.

    Args:
        console: where to draw.
        stages: name to what it does, of the stages that will come, in order; what else is shown has no number.
    """

    def __init__(self, console: Console, stages: Mapping[str, str]) -> None:
        self.console, self._stages = console, dict(stages)
        self._bars = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[info]}", markup=False),
            console=console,
            transient=False,
            speed_estimate_period=PACE_OVER,
        )
        self._task = TaskID(0)
        self._title, self._info = "", ""
        self._began = self._line = time.monotonic()

    def __enter__(self) -> CurriculumProgress:
        if self.console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.console.is_terminal:
            self._bars.stop()

    def start(self, stage: str, total: int, done: int = 0) -> None:
        """A stage begins (or goes on at `done`)."""
        number = list(self._stages).index(stage) + 1 if stage in self._stages else 0
        what = visible(self._stages.get(stage, ""))
        self._title = visible(f"stage {number}/{len(self._stages)} {stage}" if number else stage)
        self._info = ""
        self._began = self._line = time.monotonic()
        self._task = self._bars.add_task(self._title, total=total, completed=done, info=what)
        self._say(f"{self._title}: {total - done} to do{what and f'  ({what})'}")

    def advance(self, n: int = 1, info: str = "") -> None:
        """`n` more are done."""
        self._info = visible(info) or self._info
        self._bars.update(self._task, advance=n, info=f"{self._info}  {self.time_left()}")
        if time.monotonic() - self._line > LINE_EVERY:
            self._line = time.monotonic()
            task = self._bars.tasks[self._task]
            counts = f"{task.completed:g}/{task.total:g}"
            self._say(f"{self._title}: {counts}  {self._info}  {self.time_left()}")

    def end(self) -> float:
        """The stage is over; returns its seconds."""
        seconds = time.monotonic() - self._began
        self._bars.update(
            self._task, completed=self._bars.tasks[self._task].total, info=f"{self._info}  {seconds:.0f} s"
        )
        self._say(f"{self._title}: done in {seconds:.0f} s  {self._info}")
        return seconds

    def _say(self, line: str) -> None:
        """A line in the log of the run, and on the screen where there are no bars."""
        if self.console.is_terminal:
            run_log.add(line)
        else:
            self.console.print(line, highlight=False)

    def time_left(self) -> str:
        """Of this stage, at the pace of the last minutes; nothing before there is one."""
        seconds = self._bars.tasks[self._task].time_remaining
        return "" if seconds is None else f"{clock(seconds)} left"


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
