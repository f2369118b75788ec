"""What the machine can do, and what it is doing: memory, load, matrix products."""

from __future__ import annotations

import ctypes
import os
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dress.model.memory import free_bytes
from steps.flops import Sizes


def memory(field: str) -> int:
    """VmRSS (now) or VmHWM (peak since `forget_peak`) of this process, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0


def forget_peak() -> None:
    """Let the peak begin anew, after giving freed memory back."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def facts(threads: int) -> dict[str, Any]:
    """Machine, threads and versions, for the results."""
    names = ("torch", "transformers", "trl", "datasets", "accelerate", "lightning", "open_clip_torch")
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
        "versions": {name: version(name) for name in names},
    }


class Products:
    """Matrix products of a model's shapes, as its linear layers use them; the peak that MFU is measured against.

    Args:
        sizes: of the model.
        tokens: rows of the products in the layers.
        rows: rows of the head's.
        dtype: of the numbers.
    """

    def __init__(self, sizes: Sizes, tokens: int, rows: int, dtype: torch.dtype) -> None:
        keys = sizes.key_heads * sizes.head_width
        per_layer = [(sizes.width, sizes.width)] * 2 + [(sizes.width, keys)] * 2
        per_layer += [(sizes.width, sizes.inner)] * 2 + [(sizes.inner, sizes.width)]
        self.uses = [(tokens, a, b, per_layer.count((a, b)) * sizes.layers) for a, b in dict.fromkeys(per_layer)]
        self.uses.append((rows, sizes.width, sizes.vocabulary, 1))
        self.operands = [
            (torch.randn(m, a).to(dtype), torch.randn(b, a).to(dtype), torch.randn(m, b).to(dtype))
            for m, a, b, _ in self.uses
        ]
        self.rates: list[float] = []

    def measure(self) -> float:
        """Operations per second of one step's products: forward, to the input, to the weight; the best of two."""
        seconds = operations = 0.0
        for (m, a, b, times), (x, w, g) in zip(self.uses, self.operands, strict=True):
            best = float("inf")
            for _ in range(3 if m * a * b < 2**32 else 2):
                began = time.perf_counter()
                torch.mm(x, w.t())
                torch.mm(g, w)
                torch.mm(g.t(), x)
                best = min(best, time.perf_counter() - began)
            seconds += times * best
            operations += times * 6.0 * m * a * b
        self.rates.append(operations / seconds)
        return self.rates[-1]

    @property
    def peak(self) -> float:
        """Median of what was measured."""
        return statistics.median(self.rates)
