"""What a run begins with: its settings, and where it came from."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from dress import config
from dress.base.config_folder import CONFIGS
from dress.base.files import read_json, write_json
from dress.base.processes import mark
from dress.base.ranks import rank
from dress.base.redaction import redacted
from dress.base.run_folder import DONE, TOKENIZER, lock, short, unlock

ROOT = CONFIGS.parent
"""The checkout, or the installed package."""
UNSAFE = re.compile(r"[=,\s\[\](){}]")
"""What cannot be given back on the command line unquoted."""

PACKAGES = (
    "dress-vlm", "torch", "lightning", "hydra-core", "open_clip_torch", "transformers", "peft",
)  # fmt: skip


@contextmanager
def claimed(
    settings: config.Config, command: Sequence[str] | None = None
) -> Iterator[Callable[[config.Config, Mapping[str, Any]], None]]:
    """Let this process alone write the run's folder; yields what writes down that the run begins (see `start_run`).

    Where the run does not begin, the folder is as it was before: not there, or without what was made in it.

    Args:
        settings: of the run.
        command: what repeats it, word by word; None for what was typed.

    Raises:
        ConfigError: another run lives in that folder, another process writes it, or its path could not be given back.
    """
    folder, begun = Path(settings.run_dir), False

    def begin(opened: config.Config, facts: Mapping[str, Any]) -> None:
        nonlocal begun
        begun = True
        with_steps = settings.model_copy(update={"curriculum": opened.curriculum})  # those that epochs come to
        start_run(with_steps, facts, command)

    if rank() > 0:
        yield begin
        return
    _refuse(settings)
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    before = set() if missing else set(folder.iterdir())
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock(folder)
        yield begin
    finally:
        if not begun and settings.resume is None:
            unlock(folder)
            if folder / TOKENIZER not in before:
                (folder / TOKENIZER).unlink(missing_ok=True)
            for one in missing:
                with suppress(OSError):  # not empty: a traceback is kept in it
                    one.rmdir()


def start_run(
    settings: config.Config, facts: Mapping[str, Any] | None = None, command: Sequence[str] | None = None
) -> None:
    """Write what a run begins with: config.json, provenance.json, and the link `logs/latest`.

    Args:
        settings: of the run.
        facts: what is known once its data are open, for provenance.json.
        command: what repeats it, word by word; None for what was typed.

    Raises:
        ConfigError: another run lives in that folder, or its path could not be given back.
    """
    folder = Path(settings.run_dir)
    if rank() > 0:
        return
    _refuse(settings)
    folder.mkdir(parents=True, exist_ok=True)
    lock(folder)
    mark(folder, False)
    provenance = _provenance(settings, command) | dict(facts or {})
    if settings.resume is None:
        write_json(folder / "config.json", settings.model_dump())
        write_json(folder / "provenance.json", provenance | {"resumed": []})
    else:
        file = folder / "provenance.json"
        known = read_json(file, dict, f"Delete it, and {short(folder)} can be resumed") if file.exists() else {}
        resumed = known.get("resumed", [])
        if not isinstance(resumed, list):
            raise ValueError(f"{file}: resumed: expected a list, got {resumed!r:.60}. Delete it, and resume again")
        write_json(file, known | {"resumed": [*resumed, provenance]})
        saved, now = read_json(folder / "config.json"), settings.model_dump()
        saved |= {"curriculum": now["curriculum"]}  # a learning rate may have been changed
        write_json(folder / "config.json", saved)
    _link_latest(folder)


def _refuse(settings: config.Config) -> None:
    """Refuse a new run in a folder that could not be given back, or that holds one."""
    folder = Path(settings.run_dir)
    if settings.resume is not None:
        return
    if UNSAFE.search(short(folder)):
        raise config.ConfigError(f"run_dir: expected no = , ( ) [ ] {{ }} and no spaces, got {short(folder)!r}")
    if (folder / "config.json").exists():
        raise config.ConfigError(f"{short(folder)} already holds a run; to go on with it: resume={short(folder)}")


def finished(folder: Path, settings: config.Config) -> bool:
    """Whether every stage of a run is marked done and its metrics are written."""
    markers = [folder / "stages" / name / DONE for name in settings.curriculum.order]
    return all(file.is_file() for file in (folder / "metrics.json", *markers))


def _link_latest(folder: Path) -> None:
    logs = Path.cwd() / "logs"
    if folder.resolve().is_relative_to(logs.resolve()):
        aside = logs / f".latest.{os.getpid()}"
        aside.unlink(missing_ok=True)
        aside.symlink_to(folder.resolve().relative_to(logs.resolve()), target_is_directory=True)
        aside.replace(logs / "latest")


def _provenance(settings: config.Config, command: Sequence[str] | None) -> dict[str, Any]:
    """Where the numbers come from: code, versions, command, how fast this machine multiplies."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": shlex.join(redacted(list(command or [*_program(), *sys.argv[1:]]))),
        "git": {"commit": _git("rev-parse", "HEAD"), "dirty": _dirty()},
        "python": sys.version.split()[0],
        "packages": {name: _version(name) for name in PACKAGES},
        "machine": {
            "cores": os.cpu_count(),
            "fp32_gemm_gflops": gemm_gflops(settings.training.threads),
        },
    }


def _program() -> list[str]:
    """What was started, as one types it."""
    name = Path(sys.argv[0])
    return [name.name] if name.name == "dress" else ["python", short(name)]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """Git's answer about this code; None without git or a checkout (an environment may lie in any repository)."""
    if not (ROOT / "pyproject.toml").is_file():
        return None
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _dirty() -> bool | None:
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return None if changed is None else bool(changed)


def gemm_gflops(threads: int | None = None, size: int = 1024, seconds: float = 0.2) -> float:
    """fp32 matrix products on the CPU, in 1e9 operations per second: what wall times compare by."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    left, right = torch.ones(size, size), torch.ones(size, size)
    for _ in range(3):
        left @ right
    began, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds or not count:
        left @ right
        count += 1
    return round(2 * size**3 * count / spent / 1e9, 1)
