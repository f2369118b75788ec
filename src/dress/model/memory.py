"""Memory: does a step fit without activation checkpointing, rows of keys and values, and who keeps what is freed."""

from __future__ import annotations

import ctypes
import os

import torch

from dress.kernels.products import KEPT
from dress.model.lvlm import LVLM

SHARE = 0.7
"""Of the memory that is free; the rest is for the allocator, the logits and the data."""


def activation_bytes(model: LVLM, tokens: int, width: int) -> int:
    """Estimate of what a forward pass over `tokens` keeps for its backward pass, in bytes.

    Per token and layer: about 12 tensors of the hidden width (inputs of norms and projections, both
    residuals, queries, keys, values, attention's output) and 4 of the MLP's (ours, for gated MLPs; 2 where they
    are fused, in 16 bits); where attention runs as matrix products (bf16 on CPU), its probabilities too.

    Args:
        model: whose language model is trained through.
        tokens: of the largest forest.
        width: bytes per number.
    """
    text = model.language.config.get_text_config()
    hidden, layers = text.hidden_size, text.num_hidden_layers
    inner = getattr(text, "intermediate_size", None) or 4 * hidden
    products = model.fused and width == 2 and model.device.type == "cpu"
    seen = min(tokens, KEPT) * text.num_attention_heads if products else 0
    wide = 2 if model.fused and width == 2 else 4
    return tokens * layers * (12 * hidden + wide * inner + seen) * width


def state_bytes(model: LVLM) -> int:
    """Gradients and AdamW's two moments, in bytes: fp32, of what is trained."""
    return sum(12 * p.numel() for p in model.parameters() if p.requires_grad)


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


def needs_checkpointing(model: LVLM, tokens: int, device: torch.device, half: bool) -> bool:
    """Whether a stage should recompute activations: without it, its largest forest would not fit."""
    need = activation_bytes(model, tokens, 2 if half else 4) + state_bytes(model)
    return need > SHARE * free_bytes(device)


def cache_bytes(model: LVLM, tokens: int) -> int:
    """Keys and values of `tokens` tokens, in bytes (model.cache keeps fp32 on CPU)."""
    text = model.language.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    size = 4 if model.device.type == "cpu" else model.projector_weight.element_size()
    return 2 * tokens * text.num_hidden_layers * heads * width * size


def rows_that_fit(model: LVLM, tokens: int) -> int:
    """How many rows of `tokens` tokens have room for their keys and values."""
    device = model.device
    free = free_bytes(device)
    if device.type == "cuda":  # what PyTorch holds and does not use
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(SHARE * free) // cache_bytes(model, tokens)


TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def keep_freed_memory() -> bool:
    """Let this process keep what it frees for its next step; True where the C library can (glibc).

    By default glibc returns large blocks to the kernel at once, and every step pays for fresh, zeroed
    pages: a fifth of its time for SmolLM2-135M on a CPU (benchmarks/train_step.py).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(MMAP_THRESHOLD, 2**30) and mallopt(TRIM_THRESHOLD, -1))
