"""Where a step's time goes: a profile of forward and backward pass by kind of operator, with sharing and without."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from dress.kernels.memory import keep_freed_memory
from steps import models
from steps.ladder import forest_of
from steps.models import ModelSpec
from steps.tuples import Shape, make

KINDS = {
    "matrix products of layers and head": {"mm", "addmm"},
    "attention: matrix products, PyTorch's kernel": {
        "bmm",
        "baddbmm",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention_for_cpu_backward",
    },
    "softmax, forward and backward": {"_softmax", "_softmax_backward_data"},
    "casts, copies, gathers": {"copy_", "fill_", "cat", "index", "index_select", "index_add_", "masked_scatter_"},
}
REST = "norms, activations, rotary positions, sums"
PYTHON = "Python, dispatch, waiting"


def split(spec: ModelSpec, shape: Shape, steps: int, bf16: bool) -> dict[str, dict[str, float]]:
    """Seconds by kind of operator, medians over steps: of a tuple as a tree and as separate sequences.

    Profiling itself costs time, mostly in the last kind: read shares, not sums.
    """
    keep_freed_memory()
    model = models.ours(spec, shape)
    return {
        name: _profiled(model, forest_of(model, [make(shape, 0, spec.image)], share, False), steps, bf16)
        for name, share in (("dress", True), ("dress, sharing off", False))
    }


def _profiled(model: Any, forest: Any, steps: int, bf16: bool) -> dict[str, float]:
    figures: list[dict[str, float]] = []
    for number in range(steps + 2):  # the first make the pages of model and profiler
        began = time.perf_counter()
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = model(forest, forest.weight / forest.weight.sum())[0]
            loss.backward()
            whole = time.perf_counter() - began
        for parameter in model.parameters():
            parameter.grad = None
        if number < 2:
            continue
        one = dict.fromkeys([*KINDS, REST], 0.0)
        for event in profiled.key_averages():
            if event.key.startswith("aten::"):
                name = event.key.removeprefix("aten::")
                kind = next((kind for kind, names in KINDS.items() if name in names), REST)
                one[kind] += event.self_cpu_time_total / 1e6
        figures.append(one | {PYTHON: whole - sum(one.values())})
    return {kind: statistics.median(one[kind] for one in figures) for kind in figures[0]}
