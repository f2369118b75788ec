"""What the processes of a run need of each other: which one this is, and what the others say."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any


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


def of_ranks(lines: list[str]) -> list[str]:
    """The lines of all ranks, each once, on every rank."""
    import torch

    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return lines
    every: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(every, lines)
    return list(dict.fromkeys(line for part in every for line in part))


def of_first(value: Any) -> Any:
    """What the first rank has, on every rank."""
    import torch

    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]
