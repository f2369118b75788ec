"""Jobs of a sweep (`-m`) that a launcher of Hydra starts in other processes: on this machine, by SLURM, or by Ray."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import dress

LAUNCHERS = ("submitit", "ray")
"""Packages whose errors say that a job has ended before it could say why."""


class JobError(ValueError):
    """What a job in another process could not do; it has said so there, and travels to who started it."""


def process_name() -> tuple[str, int]:
    """Tells this process from those of other machines."""
    return platform.node(), os.getpid()


def share_code_with_jobs() -> None:
    """Let jobs in other processes run this code, whether it is installed there or not."""
    source = str(Path(dress.__file__).parents[1])
    places = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place and place != source]
    os.environ["PYTHONPATH"] = os.pathsep.join([source, *places])


def is_of_launcher(error: Exception) -> bool:
    """Whether a launcher says that a job of its has ended: killed, or without the machine that it ran on."""
    return any(kind.__module__.partition(".")[0] in LAUNCHERS for kind in type(error).__mro__)
