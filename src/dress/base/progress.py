"""One progress display for the whole curriculum: which stage, which step, how long still."""

from __future__ import annotations

import time
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from dress.base.terminal import visible

LINE_EVERY = 15.0
"""Seconds between lines where the output is no terminal."""


class Advance(Protocol):
    """What work calls as it goes on: with how many more things are done, and a line about how it goes."""

    def __call__(self, n: int = 1, info: str = "") -> None: ...


def ignore(n: int = 1, info: str = "") -> None:
    """Progress that nobody watches."""


class CurriculumProgress:
    """Bars on a terminal, a line now and then elsewhere.

    Args:
        console: where to draw.
        expected: seconds each stage is expected to take, in order; they only weigh the time left and
            are corrected by how long the stages so far really took.
    """

    def __init__(self, console: Console, expected: dict[str, float]) -> None:
        self.console = console
        self._expected = expected
        self._bars = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[info]}", markup=False),
            console=console,
            transient=False,
        )
        self._task: TaskID | None = None
        self._stage, self._total, self._done, self._info = "", 0, 0, ""
        self._began = self._line = time.monotonic()
        self._spent_expected = self._spent = 0.0

    def __enter__(self) -> CurriculumProgress:
        if self.console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.console.is_terminal:
            self._bars.stop()

    def start(self, stage: str, total: int, done: int = 0) -> None:
        """A stage begins (or goes on at `done`)."""
        number = list(self._expected).index(stage) + 1 if stage in self._expected else 0
        title = f"stage {number}/{len(self._expected)} {stage}" if number else stage
        self._stage, self._total, self._done, self._info = stage, total, done, ""
        self._title, self._first = visible(title), done
        self._began = self._line = time.monotonic()
        if self.console.is_terminal:
            self._task = self._bars.add_task(self._title, total=total, completed=done, info="")
        else:
            self.console.print(f"{self._title}: {total - done} to do", highlight=False)

    def advance(self, n: int = 1, info: str = "") -> None:
        """`n` more are done."""
        self._done += n
        self._info = visible(info) or self._info
        text = f"{self._info}  {self.time_left()}"
        if self._task is not None:
            self._bars.update(self._task, completed=self._done, info=text)
        elif time.monotonic() - self._line > LINE_EVERY:
            self._line = time.monotonic()
            self.console.print(f"{self._title}: {self._done}/{self._total}  {text}", highlight=False)

    def end(self) -> float:
        """The stage is over; returns its seconds."""
        seconds = time.monotonic() - self._began
        self._spent += seconds
        self._spent_expected += self._expected.get(self._stage, 0.0)
        if self._task is not None:
            self._bars.update(self._task, completed=self._total, info=f"{self._info}  {seconds:.0f} s")
        else:
            self.console.print(f"{self._title}: done in {seconds:.0f} s  {self._info}", highlight=False)
        return seconds

    def time_left(self) -> str:
        """Of this stage, and of the whole curriculum."""
        did = self._done - self._first
        if not did:
            return ""
        elapsed = time.monotonic() - self._began
        here = elapsed / did * max(0, self._total - self._done)
        whole = self._expected.get(self._stage, 0.0)
        expected_so_far = self._spent_expected + whole * self._done / max(1, self._total)
        pace = (self._spent + elapsed) / expected_so_far if expected_so_far else 1.0
        names = list(self._expected)
        later = names[names.index(self._stage) + 1 :] if self._stage in names else []
        left = here + pace * sum(self._expected[name] for name in later)
        return f"{clock(here)} left here, {clock(left)} in all"


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
