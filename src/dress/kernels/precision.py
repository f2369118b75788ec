"""Which precision the hardware multiplies."""

from __future__ import annotations

from pathlib import Path

import torch


def precision_for(setting: str) -> str:
    """`auto`: bf16 where the hardware multiplies it (GPU, AVX512-BF16, AMX), else fp32.

    A CPU without bf16 instructions emulates them, more than a hundred times slower than fp32.
    """
    if setting != "auto":
        return setting
    return "bf16-mixed" if multiplies_bf16("cuda" if torch.cuda.is_available() else "cpu") else "32-true"


def multiplies_bf16(device: torch.device | str) -> bool:
    """Whether a kind of device has bf16 instructions."""
    match torch.device(device).type:
        case "cuda":
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
        case "cpu":
            return cpu_multiplies_bf16()
        case _:
            return False


def cpu_multiplies_bf16() -> bool:
    """Whether this CPU has bf16 instructions (AVX512-BF16, AMX, or BF16 of arm64) and oneDNN may use them."""
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.exists() else set()
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & flags) and torch.ops.mkldnn._is_mkldnn_bf16_supported()
