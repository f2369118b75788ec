"""A run's folder: its lock, its markers, and its path as one types it."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dress.base.errors import ConfigError
from dress.base.files import read_json, required

DONE = "done.json"
"""Marks a finished stage."""
ENDINGS = "endings.json"
"""Beside a collect stage's `ratings.json`: how answers ended."""
TOKENIZER = "tokenizer.json"
"""Of the run's own model."""

SWEEP = "multirun.yaml"
"""Of Hydra, above the folders of a sweep's runs."""

_locks: dict[Path, int] = {}
"""Folders that this process writes, and what holds their locks."""


def lock(folder: Path, wait: float = 0.0) -> None:
    """Let no other process write this folder until this one ends, however it ends.

    Args:
        folder: that is written.
        wait: seconds in which another process may end.

    Raises:
        ConfigError: another one writes it.
    """
    folder = folder.resolve()
    if folder in _locks:
        return
    place, until = os.open(folder, os.O_RDONLY), time.monotonic() + wait
    while True:
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < until:
                time.sleep(0.2)
                continue
            os.close(place)
            raise ConfigError(
                f"{short(folder)}: another process writes this folder now. Wait until it has ended, or choose another "
                f"one"
            ) from None
        except OSError:  # a file system without locks of folders (NFS)
            pass
        break
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


@contextmanager
def folder_aside(out: Path) -> Iterator[Path]:
    """A folder beside `out` to fill; once it is whole it takes the place of `out`, and where that fails it is removed.

    Raises:
        ConfigError: another process fills it.
        ValueError: `out` holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out={out}: expected nothing there, got something; choose another folder")
    aside = out.with_name(out.name + ".merging")
    aside.mkdir(parents=True, exist_ok=True)
    lock(aside)
    try:
        for old in aside.iterdir():  # of a process that was killed
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        yield aside
        aside.replace(out)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    finally:
        unlock(aside)


def of_sweep(folder: Path) -> bool:
    """Whether a run is one of a sweep's."""
    return (folder.parent / SWEEP).exists()


def siblings(folder: Path) -> list[Path]:
    """The other runs of the sweep that a run belongs to, those with lower numbers first; none outside of a sweep."""
    if not of_sweep(folder):
        return []
    others = [stages.parent for stages in folder.parent.glob("*/stages") if stages.parent.name != folder.name]
    return sorted(others, key=lambda run: (len(run.name), run.name))


def read_marker(file: Path) -> dict[str, Any]:
    """A stage's `done.json`.

    Raises:
        ValueError: damaged; names the file and the way out.
    """
    remedy = "Delete this file: the stage is then made again"
    content: dict[str, Any] = read_json(file, dict, remedy)
    required(content, ("fingerprint", "seconds"), file, remedy)
    if not isinstance(content["fingerprint"], str) or not isinstance(content["seconds"], int | float):
        raise ValueError(f"{file}: expected a fingerprint and seconds, got {str(content)[:80]}. {remedy}")
    return content


def read_run_json(file: Path) -> dict[str, Any]:
    """`run.json` of a run that was stopped, with the seconds that it took.

    Raises:
        ValueError: damaged; names the file and the way out.
    """
    remedy = "Delete this file: times then count from here"
    content: dict[str, Any] = read_json(file, dict, remedy)
    if not isinstance(content.get("seconds"), int | float):
        raise ValueError(f"{file}: seconds: expected a number, got {content.get('seconds', 'nothing')!r:.60}. {remedy}")
    return content


def short(path: Path) -> str:
    """The path as one would type it here."""
    path, here = path.absolute(), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
