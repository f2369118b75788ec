"""What the processes of a run need of each other: which one this is, and what the others say."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def rank() -> int:
    """Which of the processes of a run this is."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))


def processes() -> int:
    """How many processes the run has."""
    size = os.environ.get("WORLD_SIZE", "1")
    return max(1, int(size)) if size.isdigit() else 1


def wait_for(file: Path) -> None:
    """Until the first process has written it."""
    while not file.exists():
        time.sleep(0.1)


def met() -> bool:
    """Whether the processes of a run have met, and are several."""
    import torch

    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    return there and torch.distributed.get_world_size() > 1


def of_ranks(value: T) -> list[T]:
    """What every rank has, in their order, on every rank; all call."""
    import torch

    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    every: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(every, value)
    return every


def of_first(value: T) -> T:
    """What the first rank has, on every rank; all call."""
    return of_ranks(value)[0]
