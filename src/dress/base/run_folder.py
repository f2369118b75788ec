"""A run's folder: what it begins with, where it came from, and the table over a sweep's runs."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from dress import config
from dress.base.files import read_json, required, write_json
from dress.base.redaction import redacted
from dress.base.terminal import Terminal, visible

ROOT = Path(__file__).resolve().parents[3]
UNSAFE = re.compile(r"[=,\s\[\](){}]")
"""What cannot be given back on the command line unquoted."""

PACKAGES = (
    "dress-vlm", "torch", "lightning", "hydra-core", "open_clip_torch", "transformers", "peft",
)  # fmt: skip


def start_run(settings: config.Config) -> None:
    """Write what a run begins with: config.json, provenance.json, and the link `logs/latest`.

    Raises:
        ConfigError: another run lives in that folder, or its path could not be given back.
    """
    folder = Path(settings.run_dir)
    if rank() > 0:
        return
    if settings.resume is None and UNSAFE.search(short(folder)):
        raise config.ConfigError(f"run_dir: expected no = , ( ) [ ] {{ }} and no spaces, got {short(folder)!r}")
    folder.mkdir(parents=True, exist_ok=True)
    lock(folder)
    if settings.resume is None:
        if (folder / "config.json").exists():
            raise config.ConfigError(f"{short(folder)} already holds a run; to go on with it: resume={short(folder)}")
        write_json(folder / "config.json", settings.model_dump())
        write_json(folder / "provenance.json", _provenance(settings) | {"resumed": []})
    else:
        file = folder / "provenance.json"
        known = read_json(file, dict, f"Delete it, and {short(folder)} can be resumed") if file.exists() else {}
        resumed = known.get("resumed", [])
        if not isinstance(resumed, list):
            raise ValueError(f"{file}: resumed: expected a list, got {resumed!r:.60}. Delete it, and resume again")
        write_json(file, known | {"resumed": [*resumed, _provenance(settings)]})
        saved, now = read_json(folder / "config.json"), settings.model_dump()
        saved |= {"budget": now["budget"], "curriculum": now["curriculum"]}  # a learning rate may have been changed
        write_json(folder / "config.json", saved)
    _link_latest(folder)


_locks: dict[Path, int] = {}
"""Folders that this process writes, and what holds their locks."""


def lock(folder: Path) -> None:
    """Let no other process write this folder until this one ends, however it ends.

    Raises:
        ConfigError: another one writes it.
    """
    folder = folder.resolve()
    if folder in _locks:
        return
    place = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(place)
        raise config.ConfigError(
            f"{short(folder)}: another process writes this folder now. Wait until it has ended, or choose another one"
        ) from None
    except OSError:  # a file system without locks of folders (NFS)
        pass
    _locks[folder] = place


def _leave_locks() -> None:
    """A data worker that outlives its killed parent for a moment holds no lock."""
    for place in _locks.values():
        os.close(place)
    _locks.clear()


os.register_at_fork(after_in_child=_leave_locks)


def unlock(folder: Path) -> None:
    """What `lock` did; a process that ends need not."""
    place = _locks.pop(folder.resolve(), None)
    if place is not None:
        os.close(place)


def read_marker(file: Path) -> dict[str, Any]:
    """A stage's `done.json`.

    Raises:
        ValueError: damaged; names the file and the way out.
    """
    remedy = "Delete this file: the stage is then made again"
    found: dict[str, Any] = read_json(file, dict, remedy)
    required(found, ("fingerprint", "seconds"), file, remedy)
    if not isinstance(found["fingerprint"], str) or not isinstance(found["seconds"], int | float):
        raise ValueError(f"{file}: expected a fingerprint and seconds, got {str(found)[:80]}. {remedy}")
    return found


def read_run_json(file: Path) -> dict[str, Any]:
    """`run.json` of a run that was stopped, with the seconds that it took.

    Raises:
        ValueError: damaged; names the file and the way out.
    """
    remedy = "Delete this file: times then count from here"
    found: dict[str, Any] = read_json(file, dict, remedy)
    if not isinstance(found.get("seconds"), int | float):
        raise ValueError(f"{file}: seconds: expected a number, got {found.get('seconds', 'nothing')!r:.60}. {remedy}")
    return found


def rank() -> int:
    """Which of the processes of a run this is."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))


def wait_for(file: Path) -> None:
    """Until the first process has written it."""
    while not file.exists():
        time.sleep(0.1)


def _link_latest(folder: Path) -> None:
    logs = Path.cwd() / "logs"
    if folder.resolve().is_relative_to(logs.resolve()):
        aside = logs / f".latest.{os.getpid()}"
        aside.unlink(missing_ok=True)
        aside.symlink_to(folder.resolve().relative_to(logs.resolve()), target_is_directory=True)
        aside.replace(logs / "latest")


def _provenance(settings: config.Config) -> dict[str, Any]:
    """Where the numbers come from: code, versions, command, how fast this machine multiplies."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": shlex.join(["python", short(Path(sys.argv[0])), *redacted(sys.argv[1:])]),
        "git": {"commit": _git("rev-parse", "HEAD"), "dirty": _dirty()},
        "python": sys.version.split()[0],
        "packages": {name: _version(name) for name in PACKAGES},
        "machine": {
            "cores": os.cpu_count(),
            "fp32_gemm_gflops": gemm_gflops(settings.training.threads),
        },
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """Git's answer about this code; None without git or without a repository."""
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


# --- several runs ---------------------------------------------------------------------------------


class SweepTable(Callback):
    """Hydra callback: after `-m` one table over the runs, and `runs.json` in the sweep's folder."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir).absolute()
        runs = sweep_runs(folder)
        if not runs:
            return
        from dress.report.figures import runs_table

        write_json(folder / "runs.json", runs)
        Terminal().print(runs_table({label: run["metrics"] for label, run in runs.items()}))
        print(visible(f"runs: {short(folder / 'runs.json')}"))


def sweep_runs(folder: Path) -> dict[str, dict[str, Any]]:
    """Finished jobs of a sweep, by what tells them apart (`seed=1`).

    Returns:
        For each: `run_dir`, `overrides`, `metrics`.
    """
    jobs = [file.parent for file in folder.glob("*/metrics.json")]
    jobs.sort(key=lambda job: (len(job.name), job.name))  # 2 before 10
    typed = {job: yaml.safe_load((job / ".hydra" / "overrides.yaml").read_text(encoding="utf-8")) or [] for job in jobs}
    common = set.intersection(*map(set, typed.values())) if len(jobs) > 1 else set()
    return {
        " ".join(text for text in typed[job] if text not in common) or job.name: {
            "run_dir": str(job),
            "overrides": typed[job],
            "metrics": read_json(job / "metrics.json"),
        }
        for job in jobs
    }


def finished(folder: Path, settings: config.Config) -> bool:
    """Whether every stage of a run is marked done and its metrics are written."""
    markers = [folder / "stages" / name / "done.json" for name in settings.curriculum.order]
    return all(file.is_file() for file in (folder / "metrics.json", *markers))


def short(path: Path) -> str:
    """The path as one would type it here."""
    path, here = path.absolute(), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
