"""The processes of a run: none outlives the one that started it, and each can be asked to stop.

SIGINT asks a run to stop: exit code 130. SIGTERM and SIGUSR1, as schedulers send them, ask it to go on later: exit
code 75 (EX_TEMPFAIL) and a marker in its folder.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

POLL = 0.5
"""Seconds between looks at whether the process above is alive."""
GONE = 1
"""Exit code of a process whose starter is gone."""
INTERRUPTED, PREEMPTED = 130, 75
"""Exit codes of a run that was asked to stop."""
KNOWN = 2.0
"""Seconds within which a process learns that others were asked to stop."""
MARKER = "preempted"
"""In the folder of a run that a scheduler stopped, until it goes on."""
FAILURE = "failure"
"""In the folder of a run, where a process after the first ended with an error, until it goes on."""
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

SOON = 0.05
"""Seconds until a stop that was dropped is asked for again."""
GRACE = 8.0
"""Seconds in which a process has to end after another one has."""

_preempted = False


class Interrupted(Exception):
    """The run was asked to stop and has saved where it stands."""


def preempted() -> bool:
    """Whether this process was asked to stop by a scheduler."""
    return _preempted


def note(number: int) -> None:
    """Keep which signal asked to stop."""
    global _preempted
    _preempted |= number != signal.SIGINT


def exit_code() -> int:
    """Of a run that was asked to stop."""
    return PREEMPTED if _preempted else INTERRUPTED


def stop_on_signals() -> None:
    """From now on SIGTERM and SIGUSR1 end what this process does as SIGINT does, and none of them is lost.

    A signal may come while a destructor runs, and Python drops what is raised there: it is raised again at once.
    """
    for number in STOPPING[1:]:
        signal.signal(number, _stop)
    signal.signal(signal.SIGALRM, _stop_again)
    show = sys.unraisablehook

    def hook(dropped: sys.UnraisableHookArgs) -> None:
        if dropped.exc_type is KeyboardInterrupt:
            signal.setitimer(signal.ITIMER_REAL, SOON)
        else:
            show(dropped)

    sys.unraisablehook = hook


def ignore_stops() -> None:
    """From now on this process is on its way out, and nothing stops that."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number in (*STOPPING, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)


def _stop(number: int, frame: object) -> None:
    note(number)
    raise KeyboardInterrupt


def _stop_again(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def mark(folder: Path, now: bool) -> None:
    """Write or remove the marker of a run that a scheduler stopped; a run that goes on has no failure either."""
    if now:
        (folder / MARKER).touch()
    else:
        (folder / MARKER).unlink(missing_ok=True)
        (folder / FAILURE).unlink(missing_ok=True)


def others_stopped(folder: Path) -> bool:
    """Whether a broken exchange comes of another process that was asked to stop: then this one is too, or soon will be.

    Args:
        folder: of the run, where the other one leaves word.
    """
    until = time.monotonic() + KNOWN
    try:
        while not (folder / MARKER).exists():
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
    except KeyboardInterrupt:
        return True
    note(signal.SIGTERM)
    return True


def note_failure(folder: Path) -> None:
    """Leave word in a run's folder that this process ends with an error: torchrun then stops the others as a scheduler
    would, and they could not tell.
    """
    if (folder / "config.json").exists():
        with suppress(OSError):
            (folder / FAILURE).touch()


def speaks() -> bool:
    """Whether this process is to say what went wrong: the first of a run is, and another one where the first has found
    nothing, and so has not ended a second later.
    """
    if int(os.environ.get("RANK", "0")) == 0:
        return True
    try:
        time.sleep(1.0)
    except KeyboardInterrupt:  # of the launcher: another one has ended with an error
        return False
    return True


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def end_with_parent() -> None:
    """End this process, with a message, soon after the one that started it: a rank alone would wait for ever.

    A thread looks, since the main thread may wait inside a collective, where no signal handler runs. Only for ranks
    that Lightning or another launcher started; a run's first process may outlive its shell.
    """
    if int(os.environ.get("LOCAL_RANK", "0")) > 0:
        _watch_parent(os.getppid())


def _watch_parent(parent: int, grace: float = 0) -> None:
    threading.Thread(target=_watch, args=(parent, grace), daemon=True, name="end-with-parent").start()


def _watch(parent: int, grace: float) -> None:
    while os.getppid() == parent:
        time.sleep(POLL)
    time.sleep(grace)
    rank = os.environ.get("LOCAL_RANK")
    print(f"process {rank} of the run ends: the one that started it ({parent}) is gone", file=sys.stderr, flush=True)
    os._exit(GONE)


def fork_ranks(number: int) -> None:
    """Go on in so many processes, forked from this one: this call returns in each of them, and never here.

    What was imported is there already, so that a second process costs no time. This one passes signals on, and ends
    with the first exit code that is not 0 when all have ended: when one ends so, the others are asked to stop, and
    killed where they do not (they may wait inside a collective for the one that is gone).

    Args:
        number: of processes, on the CPU: what CUDA has begun cannot be forked.
    """
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sys.stdout.flush()
    sys.stderr.flush()
    children: dict[int, int] = {}
    parent = os.getpid()
    for rank in range(number):
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)  # Ctrl-C is for the process that passes it on
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
            _die_with(parent)
            os.environ |= {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": str(number),
                "LOCAL_WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            }  # fmt: skip
            _watch_parent(parent, GRACE)
            return
        children[child] = rank
    os._exit(_wait(children))


def _wait(children: dict[int, int]) -> int:
    """The first exit code that is not 0, when all have ended; passes signals on."""
    left = dict(children)

    def send(number: int) -> None:
        for child in left:
            with suppress(ProcessLookupError):
                os.kill(child, number)

    for number in STOPPING:
        signal.signal(number, lambda got, frame: send(got))
    code, end = 0, float("inf")
    while left:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child == 0:
            time.sleep(0.02)
            if time.monotonic() > end:
                send(signal.SIGKILL)
                end = float("inf")
            continue
        if child not in left:  # somebody else's orphan, where this is a container's first process
            continue
        rank, ended = left.pop(child), os.waitstatus_to_exitcode(status)
        if ended == PREEMPTED and code == 1:
            code = ended  # the connection of another rank to this one broke before this one was reaped
        if ended and not code:
            code = ended if ended > 0 else 128 - ended
            if ended < 0:
                name = signal.Signals(-ended).name
                print(f"process {rank} of the run was ended by {name}; the others end too", file=sys.stderr, flush=True)
            end = time.monotonic() + GRACE
            send(signal.SIGTERM if code == PREEMPTED else signal.SIGINT)
    return code


def _die_with(parent: int) -> None:
    """Get SIGTERM from the kernel when the process above is gone, where there is such a thing (Linux)."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:
        os._exit(GONE)
