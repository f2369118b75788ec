"""Runs a command that must not outlive a process: `python supervisor.py PARENT GRACE WORDS…`, a script of its own.

Ends the command, and whatever it has started, when it is told to (SIGTERM), when the parent is gone, however it ended,
and when the command ends by itself. It asks with SIGTERM, and kills what is left after the grace. What the command's
processes leave behind becomes a child of this one (a subreaper, on Linux), so that also what went into a session of
its own is found. Its exit code is the command's; 128 + the number of a signal that ended it.
"""

import ctypes
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

PDEATHSIG, SUBREAPER = 1, 36
"""Of prctl."""
POLL = 0.05
"""Seconds between looks."""


def prctl(option: int, value: int) -> None:
    """Where there is such a thing (Linux)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def descendants() -> list[int]:
    """All processes that stem from this one, where /proc says so."""
    pids: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        pid = waiting.pop()
        with suppress(OSError):
            tasks = Path(f"/proc/{pid}/task")
            children = [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]
            pids += children
            waiting += children
    return pids


def begin(words: list[str]) -> int:
    """Start the command in a session of its own; its process's id."""
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        prctl(PDEATHSIG, signal.SIGKILL)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        os.execvp(words[0], words)
    except OSError as error:
        print(f"{words[0]}: {error.strerror}", file=sys.stderr, flush=True)
    os._exit(127)


class Reaper:
    """Collects what has ended; knows the command's exit code once it has."""

    def __init__(self, child: int) -> None:
        self.child = child
        self.code: int | None = None

    def __call__(self) -> bool:
        """Look; whether the command has ended."""
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self.child:
                    code = os.waitstatus_to_exitcode(ended[1])
                    self.code = code if code >= 0 else 128 - code
        return self.code is not None


def kill_all(child: int, reap: Reaper) -> None:
    """Kill the command's group and all descendants, until there are none."""
    while True:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)
        left = descendants()
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if reap() and not left:
            return
        time.sleep(POLL)


def main(parent: int, grace: float, words: list[str]) -> int:
    """Run the command; returns its exit code."""
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda got, frame: signals.append(got))
    prctl(SUBREAPER, 1)
    child = begin(words)
    reap = Reaper(child)
    while not reap() and not signals and os.getppid() == parent:
        time.sleep(POLL)
    if reap.code is None:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)
        end = time.monotonic() + grace
        while not reap() and time.monotonic() < end:
            time.sleep(POLL)
    kill_all(child, reap)
    return reap.code or 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
