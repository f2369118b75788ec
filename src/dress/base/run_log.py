"""`train.log` in a run's folder: what the terminal said, as plain text, and every traceback.

Nothing is written before the run has begun: a start that fails leaves no file, but for a bug in foreign code, whose
traceback is wanted.
"""

from __future__ import annotations

import re
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console, ConsoleRenderable, NewLine, RenderHook
from rich.control import Control
from rich.text import Text

from dress.base.errors import ConfigError, mistake
from dress.base.processes import Interrupted
from dress.base.ranks import rank
from dress.base.redaction import redacted
from dress.base.terminal import Terminal, visible

LOG = "train.log"
WIDTH = 160
"""Columns of tables in the file."""


_STYLES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
"""What colours text or moves the cursor."""


class RunLog(RenderHook):
    """Keeps what `console` prints, and what goes to standard error, for as long as it is entered.

    Args:
        console: of the run.
        folder: of the run.
    """

    def __init__(self, console: Console, folder: Path) -> None:
        self.file = folder / LOG
        self.traceback: Path | None = None
        """The file, once a traceback stands in it."""
        self._source, self._waiting, self._begun = console, "", False
        self._copy = Terminal(
            file=_Lines(self), width=WIDTH, color_system=None, force_terminal=False,
            force_jupyter=False,  # which would show it in a notebook, and not write it
        )  # fmt: skip

    def begin(self) -> None:
        """The run has begun: write what was said so far, and the rest as it comes."""
        self._begun = True
        self.write("")

    def write(self, text: str) -> None:
        """Append a text without secrets; where the file cannot be written the run goes on without it."""
        self._waiting += text
        if not self._begun or rank() > 0:
            return
        try:
            with self.file.open("a", encoding="utf-8", errors="replace") as file:
                file.write(redacted(self._waiting))
        except OSError:
            pass
        self._waiting = ""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Print to the file what is about to be printed; what moves a cursor is left out."""
        for one in renderables:
            if isinstance(one, Text):
                self._copy.print(one, soft_wrap=True, end=one.end)
            elif not isinstance(one, Control | NewLine):
                self._copy.print(one)
        return renderables

    def __enter__(self) -> RunLog:
        global _last
        _last = self
        self._source.push_render_hook(self)
        self._stderr = sys.stderr
        sys.stderr = _Both(self._stderr, self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        sys.stderr = self._stderr
        self._source.pop_render_hook()
        if error is None or isinstance(error, KeyboardInterrupt | SystemExit | Interrupted | ConfigError):
            return
        if rank() == 0 and (self._begun or (isinstance(error, ValueError) and not mistake(error))):
            self.begin()
            self.write("".join(traceback.format_exception(error)))
            self.traceback = self.file if self.file.exists() else None


class _Lines:
    """A file for a console."""

    def __init__(self, log: RunLog) -> None:
        self._log = log

    def write(self, text: str) -> None:
        self._log.write(text)

    def flush(self) -> None: ...


class _Both:
    """Standard error, and the log: warnings, and what libraries say."""

    def __init__(self, stream: TextIO, log: RunLog) -> None:
        self._stream, self._log = stream, log

    def write(self, text: str) -> int:
        self._log.write(visible(_STYLES.sub("", text)))
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


_last: RunLog | None = None


def last() -> RunLog | None:
    """The log of the run that this process began last, also after its end; None before there is one."""
    return _last


def forget() -> None:
    """Another run of this process comes next: what is said before it begins belongs to none."""
    global _last
    _last = None


def add(text: str) -> None:
    """Append a line to that log: what is said to a person but by no console."""
    if _last is not None:
        _last.write(f"{text}\n")
