"""Starts a command that cannot outlive this process; see `base.supervisor`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from dress.base import supervisor


def start(words: Sequence[str], environment: Mapping[str, str], log: Path, grace: float) -> subprocess.Popen[bytes]:
    """A supervisor's process, which runs the command.

    Args:
        words: of the command.
        environment: of the command.
        log: gets what it prints, behind what is there.
        grace: seconds in which it has to end when it is asked to.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-I", "-S", str(supervisor.__file__), str(os.getpid()), str(grace), *words]
    with log.open("ab") as out:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            env=dict(environment),
        )  # fmt: skip


def end(process: subprocess.Popen[bytes], patience: float) -> None:
    """Let the supervisor end all; it goes on by itself where this process does not wait so many seconds."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(patience)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens at now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
