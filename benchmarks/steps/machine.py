"""What the machine can do, and what it is doing: memory, load, matrix products."""

from __future__ import annotations

import ctypes
import os
import platform
import statistics
import subprocess
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from dress.kernels.memory import free_bytes
from steps.flops import Sizes


class Memory:
    """What this process holds on a device, in bytes.

    Args:
        device: cpu counts all of the process, cuda what PyTorch has allocated.
    """

    def __init__(self, device: str) -> None:
        self.device = device

    def now(self) -> int:
        if self.device == "cuda":
            torch.cuda.synchronize()
            return torch.cuda.memory_allocated()
        return _status("VmRSS")

    def peak(self) -> int:
        """The most since `forget`."""
        return torch.cuda.max_memory_allocated() if self.device == "cuda" else _status("VmHWM")

    def forget(self) -> None:
        """Let the peak begin anew, after giving freed memory back."""
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            return
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def clock(device: str) -> float:
    """Seconds, once the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0


def facts(threads: int) -> dict[str, Any]:
    """Machine, threads and versions, for the results."""
    names = ("torch", "transformers", "trl", "datasets", "accelerate", "lightning", "open_clip_torch")
    here = {name: version(name) for name in names if find_spec(name.removesuffix("_torch"))}
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    flags = Path("/proc/cpuinfo").read_text()
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": threads,
        "bf16": [name for name in ("avx512_bf16", "amx_bf16") if name in flags],
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "free_gib": round(free_bytes(torch.device("cpu")) / 2**30, 1),
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": here,
    }


def pss(pid: int) -> int:
    """Bytes of a process: what it has alone, and its share of what several have mapped; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024


def commit(root: Path) -> str:
    """Of the sources, with a mark where they were changed; `unknown` where there is no git."""

    def git(*arguments: str) -> str:
        try:
            done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return ""
        return done.stdout.strip()

    changed = git("status", "--porcelain", "-uno", "--", "src", "benchmarks", "tests")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + (", changed" if changed else "")


class Products:
    """Matrix products of a model's shapes, as its linear layers use them; the peak that MFU is measured against.

    Args:
        sizes: of the model.
        tokens: rows of the products in the layers.
        rows: rows of the head's.
        dtype: of the numbers.
        device: where.
    """

    def __init__(self, sizes: Sizes, tokens: int, rows: int, dtype: torch.dtype, device: str = "cpu") -> None:
        self.device = device
        keys = sizes.key_heads * sizes.head_width
        per_layer = [(sizes.width, sizes.width)] * 2 + [(sizes.width, keys)] * 2
        per_layer += [(sizes.width, sizes.inner)] * 2 + [(sizes.inner, sizes.width)]
        self.uses = [(tokens, a, b, per_layer.count((a, b)) * sizes.layers) for a, b in dict.fromkeys(per_layer)]
        self.uses.append((rows, sizes.width, sizes.vocabulary, 1))
        self.operands = [
            tuple(torch.randn(*size).to(device, dtype) for size in ((m, a), (b, a), (m, b))) for m, a, b, _ in self.uses
        ]
        self.rates: list[float] = []

    def measure(self) -> float:
        """Operations per second of one step's products: forward, to the input, to the weight; the best of two."""
        seconds = operations = 0.0
        for (m, a, b, times), (x, w, g) in zip(self.uses, self.operands, strict=True):
            best = float("inf")
            for _ in range(3 if m * a * b < 2**32 else 2):
                began = clock(self.device)
                torch.mm(x, w.t())
                torch.mm(g, w)
                torch.mm(g.t(), x)
                best = min(best, clock(self.device) - began)
            seconds += times * best
            operations += times * 6.0 * m * a * b
        self.rates.append(operations / seconds)
        return self.rates[-1]

    @property
    def peak(self) -> float:
        """Median of what was measured."""
        return statistics.median(self.rates)


def give_memory_back() -> None:
    """glibc as it is by default after its first large blocks, for what is measured without `keep_freed_memory`."""
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(-3, 2**25)  # M_MMAP_THRESHOLD: where its own rule ends up
    mallopt(-1, 2**26)  # M_TRIM_THRESHOLD: twice that
