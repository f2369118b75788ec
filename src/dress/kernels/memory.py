"""The memory of a device: what is free of it, and who keeps what a process frees."""

from __future__ import annotations

import ctypes
import os

import torch

SHARE = 0.7
"""Of the memory that is free; the rest is for the allocator, the logits and the data."""


def free_bytes(device: torch.device) -> int:
    """Memory that can still be had on a device; for the CPU, what the machine and its control group leave."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            kib = next(int(line.split()[1]) for line in file if line.startswith("MemAvailable:"))
        free = kib * 1024
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as limit, \
             open("/sys/fs/cgroup/memory.current", encoding="ascii") as used:  # fmt: skip
            free = min(free, int(limit.read()) - int(used.read()))
    except (OSError, StopIteration, ValueError):
        pass  # no Linux, or no limit ("max")
    return free


def used_gib(device: torch.device) -> float:
    """The most that this process has held of a device since it was asked last; for the CPU, what it holds now."""
    if device.type == "cuda":
        most = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return most / 2**30
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**30
    except OSError:  # no Linux
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30  # bytes, on macOS


TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def keep_freed_memory() -> bool:
    """Let this process keep what it frees for its next step; True where the C library can (glibc).

    By default glibc returns large blocks to the kernel at once, and every step pays for fresh, zeroed
    pages: a fifth of its time for SmolLM2-135M on a CPU (benchmarks/train_step.py).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(MMAP_THRESHOLD, 2**30) and mallopt(TRIM_THRESHOLD, -1))
