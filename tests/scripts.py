"""Run a script in a process of its own that has the libraries loaded already.

Loading torch, Lightning, Transformers and OpenCLIP takes longer than most of what the tests let a script do. A
server that has loaded them once forks for each script; `make test-slow` (`DRESS_FRESH_PROCESSES=1`) starts Python
anew instead, as a reader does.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import torch

TESTS = str(Path(__file__).parent)
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["preload"])


def run_script(
    script: Path, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """What `python script arguments…` prints and how it ends.

    Raises:
        subprocess.TimeoutExpired: it took longer than `timeout` seconds, and was killed.
    """
    environment = {"OMP_NUM_THREADS": str(torch.get_num_threads())} | dict(os.environ if env is None else env)
    command = [sys.executable, str(script), *arguments]
    another_path = environment.get("PYTHONPATH") != os.environ.get("PYTHONPATH")  # Python reads it as it starts
    if another_path or os.environ.get("DRESS_FRESH_PROCESSES") == "1":
        return subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=timeout
        )
    _start_server()
    with tempfile.TemporaryDirectory() as folder:
        out, errors = Path(folder, "out"), Path(folder, "errors")
        process = _context.Process(target=_run, args=(command[1:], str(cwd), environment, str(out), str(errors)))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(command, timeout, out.read_text(), errors.read_text())
        return subprocess.CompletedProcess(command, process.exitcode, out.read_text(), errors.read_text())


_running: list[subprocess.Popen[Any]] = []


def begin(command: Sequence[object], **more: Any) -> subprocess.Popen[Any]:
    """A process that ends with the test, whatever becomes of that; with what it starts in its session."""
    process = subprocess.Popen([str(word) for word in command], start_new_session=True, **more)
    _running.append(process)
    return process


def end_all() -> None:
    """Kill what `begin` has begun."""
    for process in _running:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    _running.clear()


def free_port() -> int:
    """Of this machine's loopback, free a moment ago."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _start_server() -> None:
    """Started where it finds `preload`; does nothing where it runs already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", TESTS, prepend=os.pathsep)
        forkserver.ensure_running()


def _run(argv: list[str], cwd: str, environment: dict[str, str], out: str, errors: str) -> None:
    """In the forked process: what Python does before and after a script."""
    atexit._clear()  # what the server registered is the server's
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for number, file in ((0, os.devnull), (1, out), (2, errors)):
        opened = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8")
    sys.argv = argv
    sys.path[:] = [str(Path(argv[0]).parent), *(place for place in sys.path if place not in ("", TESTS))]
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    try:
        runpy.run_path(argv[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # a forked process ends without them
