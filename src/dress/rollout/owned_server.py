"""A server that this process starts in an environment of its own, and that never outlives it."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dress.base import processes, supervised
from dress.config.generation import PLACEHOLDER, Generation, GenerationServer
from dress.llm.keys import api_key

KEY = "DRESS_SERVER_KEY"
"""Variable that holds the server's key, here and there."""
VLLM_KEY = "VLLM_API_KEY"
"""Where vLLM looks for it."""
RANKS = (
    "RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE",
    "ROLE_WORLD_SIZE", "ROLE_NAME",
)  # fmt: skip
OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
"""What is meant for this process alone; a variable that the server needs goes before its command (`env NAME=…`)."""
PREFIXES = ("MASTER_", "TORCHELASTIC_", "TORCH_NCCL_", "PL_", "CONDA_")
POLL, PATIENCE = 0.2, 5.0
"""Seconds between questions whether it is healthy, and until such a question is given up."""
LAST_LINES = 15
"""Of a server's output, where it does not start."""


@dataclass(frozen=True)
class RunningServer:
    """A server that takes questions.

    Attributes:
        url: up to /v1.
        name: that it knows the model by.
        version: as it says it at /version; None: it does not.
    """

    url: str
    name: str
    version: str | None


def check_server(generation: Generation) -> None:
    """See early what would stop a server hours later.

    Raises:
        ValueError: its command's program is not there, or the variable of its key is not set.
    """
    settings = generation.server
    if generation.engine == "native":
        return
    if not settings.words:
        api_key(settings.api_key_env, str(settings.url))
        return
    program = settings.words[0]
    if shutil.which(program, path=own_environment().get("PATH")) is None:
        raise ValueError(
            f"generation.server.command: expected a program that can be started, got {program!r:.120}, which is none "
            f"here. The path of another environment's is the safest, e.g. /opt/vllm/bin/vllm"
        )


def own_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment without what belongs to this process: ranks, and its Python's folders."""
    variables = {
        name: value for name, value in environment.items()
        if name not in (*RANKS, *OURS) and not name.startswith(PREFIXES)
    }  # fmt: skip
    own = {str(Path(sys.prefix, "bin")), str(Path(environment.get("VIRTUAL_ENV", sys.prefix), "bin"))}
    if sys.prefix != sys.base_prefix:
        path = variables.get("PATH", os.defpath).split(os.pathsep)
        variables["PATH"] = os.pathsep.join(folder for folder in path if folder.rstrip("/") not in own)
    return variables


@contextmanager
def owned_server(settings: GenerationServer, model: Path, name: str, log: Path) -> Iterator[RunningServer]:
    """Start the command and wait until it takes questions; when the context ends, nothing of it is left.

    A supervisor, a process of its own, ends the server where this process is killed. `KEY` holds the server's key
    within the context.

    Args:
        settings: the command, and how long is waited.
        model: folder that it serves.
        name: that it is to know the model by, where the command has a place for it; else it is the folder.
        log: gets what it prints.

    Raises:
        ValueError: it ends or never is healthy, or knows no model of this name; shows the end of the log.
    """
    key, port = secrets.token_hex(16), supervised.free_port()
    places = {"model": str(model), "port": str(port), "name": name, "key": key}
    words = [PLACEHOLDER.sub(lambda place: places.get(place[1], place[0]), word) for word in settings.words]
    takes_name = any("{name}" in word for word in settings.words)
    os.environ[KEY] = key
    try:
        process = supervised.start(words, own_environment() | {KEY: key, VLLM_KEY: key}, log, settings.grace)
        patience = settings.grace + PATIENCE
        try:
            server = _Starting(settings, process, f"http://127.0.0.1:{port}", key, log)
            server.wait()
            if takes_name:
                server.check_name(name)
            yield RunningServer(f"{server.address}/v1", name if takes_name else str(model), server.version())
        except (KeyboardInterrupt, processes.Interrupted):
            processes.ignore_stops()  # the server ends first, and in time: the supervisor does the rest
            patience = min(patience, processes.GRACE / 2)
            raise
        finally:
            supervised.end(process, patience)
    finally:
        os.environ.pop(KEY, None)


@dataclass(frozen=True)
class _Starting:
    """A server on its way."""

    settings: GenerationServer
    process: subprocess.Popen[bytes]
    address: str
    key: str
    log: Path

    def wait(self) -> None:
        """Until it is healthy."""
        end = time.monotonic() + self.settings.deadline
        while self._get(self.settings.health, PATIENCE) is None:
            if (code := self.process.poll()) is not None:
                raise ValueError(
                    f"generation.server.command: expected a server, got one that ended with exit code {code} before it "
                    f"was healthy. {self._said()}"
                )
            if time.monotonic() > end:
                raise ValueError(
                    f"generation.server.deadline={self.settings.deadline:g}: expected a healthy server at "
                    f"{self.address}{self.settings.health} by then, got none. {self._said()}"
                )
            time.sleep(POLL)

    def check_name(self, name: str) -> None:
        """Refuse a server that knows no model of this name: it may be another one."""
        page = self._get("/v1/models", PATIENCE)
        rows = page.get("data") if isinstance(page, dict) else None
        names = [str(row.get("id")) for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
        if name not in names:
            raise ValueError(
                f"generation.server.command: expected a server of the model {name} ({{name}}), got one of "
                f"{', '.join(names)[:300] or 'no model that it names'} at {self.address}/v1/models. {self._said()}"
            )

    def version(self) -> str | None:
        """As it says it; vLLM does."""
        page = self._get("/version", PATIENCE)
        version = page.get("version") if isinstance(page, dict) else None
        return str(version)[:80] if version else None

    def _get(self, path: str, patience: float) -> Any:
        """What it answers, {} where that is no JSON; None where it does not answer with 200."""
        request = urllib.request.Request(self.address + path, headers={"Authorization": f"Bearer {self.key}"})
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(request, timeout=patience) as answer:
                if answer.status != 200:
                    return None
                content = answer.read(2**20)
        except (OSError, http.client.HTTPException):  # an error of urllib's is an OSError
            return None
        with suppress(ValueError):
            return json.loads(content) or {}
        return {}

    def _said(self) -> str:
        lines = [line for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        last = " | ".join(line.strip()[:200] for line in lines[-LAST_LINES:])
        return f"{self.log} ends: {last.replace(self.key, f'<{KEY}>')}" if last else f"{self.log} is empty"
