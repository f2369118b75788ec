"""Where the speed comes from: the same tuple, one switch more on every rung, forward and backward pass."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dress.dialogue.batch import Example, Forest, collate
from dress.dialogue.tree import build_tree
from dress.kernels.memory import keep_freed_memory
from dress.model.composed import ComposedLVLM
from steps import models
from steps.arms import padded
from steps.machine import Memory, give_memory_back
from steps.models import ModelSpec
from steps.rounds import Say
from steps.tuples import Shape, Tuple, make

TOGETHER = 4
"""Tuples of the rung that packs a forest; its figures are per tuple."""

TOLERANCE = 2e-3
"""Relative difference of a rung's loss, in bf16, above which it prints no figure."""


@dataclass(frozen=True)
class Rung:
    """A switch: what it is called, whose forward pass runs (and gives the loss), tuples per run, freed memory kept."""

    name: str
    model: torch.nn.Module
    run: Callable[[], Tensor]
    tuples: int = 1
    keep: bool = False


def rungs(spec: ModelSpec, shape: Shape) -> tuple[list[Rung], Callable[[int], float]]:
    """All rungs, each with every switch of those before it; and the loss that so many tuples must give."""
    theirs = models.llava(spec, shape)
    processor = models.processor(spec, shape)
    plain, fused = models.ours(spec, shape, fused=False), models.ours(spec, shape)
    tuples = [make(shape, seed, spec.image) for seed in range(TOGETHER)]

    def rows(merged: bool, checkpointing: bool, chosen: bool) -> Callable[[], Tensor]:
        batch = padded(tuples[0].rows(merged), tuples[0], processor)

        def run() -> Tensor:
            if checkpointing:
                theirs.activation_checkpointing_enable({"use_reentrant": False})
            else:
                theirs.activation_checkpointing_disable()
            given: dict[str, Any] = {"input_ids": batch.ids, "attention_mask": batch.mask, "use_cache": False}
            if batch.pixels is not None:
                given["pixel_values"] = batch.pixels
            if not chosen:
                return theirs(**given, labels=batch.labels).loss
            hidden = theirs.model(**given).last_hidden_state
            rows, places = (batch.labels[:, 1:] != -100).nonzero(as_tuple=True)
            logits = theirs.lm_head(hidden[rows, places])
            return F.cross_entropy(logits.float(), batch.labels[rows, places + 1])

        return run

    def forest(model: ComposedLVLM, share: bool, count: int = 1, stored: bool = False) -> Callable[[], Tensor]:
        made = forest_of(model, tuples[:count], share, stored)
        return lambda: model(made, made.weight / made.weight.sum())[0]

    def expected(count: int) -> float:
        with torch.no_grad():
            losses = []
            for one in tuples[:count]:
                made = forest_of(plain, [one], False, False)
                losses.append(float(plain(made, made.weight / made.weight.sum())[0]))
        return sum(losses) / count

    climbed = [
        Rung("plain transformers: a padded row per answer, checkpointing", theirs, rows(False, True, False)),
        Rung("head on supervised tokens only", theirs, rows(False, True, True)),
        Rung("a chain as one row", theirs, rows(True, True, True)),
        Rung("no checkpointing", theirs, rows(True, False, True)),
        Rung("ragged packing, no padding", plain, forest(plain, False)),
        Rung("token tree", plain, forest(plain, True)),
        Rung("stored features, no vision tower", plain, forest(plain, True, stored=True)),
        Rung("fused norms, rotary positions, MLPs; attention by products", fused, forest(fused, True, stored=True)),
        Rung("freed memory kept", fused, forest(fused, True, stored=True), keep=True),
        Rung(f"a forest of {TOGETHER} tuples (per tuple)", fused, forest(fused, True, TOGETHER, True), TOGETHER, True),
    ]
    return climbed, expected


def forest_of(model: ComposedLVLM, tuples: list[Tuple], share: bool, stored: bool) -> Forest:
    """Tuples as trees, or (not `share`) each dialogue as a sequence; `stored`: with features instead of pixels."""
    samples = []
    for one in tuples:
        encoded = one.encoded()
        trees = [build_tree(encoded)] if share else [build_tree([dialogue]) for dialogue in encoded]
        samples.append(Example(trees, models.picture(model, one, stored)))
    return collate(samples, 10**6).forests[0]


def climb(
    spec: ModelSpec, shape: Shape, rounds: int, seconds: float, bf16: bool, say: Say
) -> dict[str, dict[str, Any]]:
    """Time every rung, in rounds over all of them; fewer rounds (said) where `seconds` do not suffice.

    Returns:
        name to `seconds` per tuple (median), `peak` and `before` in bytes, `loss`, `passes`.
    """
    until = time.monotonic() + seconds
    steps, expected = rungs(spec, shape)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        wanted = {count: expected(count) for count in (1, TOGETHER)}
    measured: dict[str, list[dict[str, float]]] = {rung.name: [] for rung in steps}
    done, took = 0, 0.0
    while done < rounds and (not done or time.monotonic() + took < until):
        took = _round(steps, measured, bf16)
        done += 1
        say(f"ladder: round {done} of {rounds}, {took:.0f} s")
    if done < rounds:
        say(f"ladder: {done} rounds instead of {rounds}, its time is over")
    result = {}
    for rung in steps:
        runs = measured[rung.name]
        loss, expected_loss = runs[0]["loss"], wanted[rung.tuples]
        result[rung.name] = {
            "seconds": statistics.median(run["seconds"] for run in runs), "rounds": done,
            "activations": max(run["activations"] for run in runs), "loss": loss,
            "passes": abs(loss - expected_loss) <= TOLERANCE * expected_loss,
        }  # fmt: skip
    return result


def _round(steps: list[Rung], measured: dict[str, list[dict[str, float]]], bf16: bool, warm_up: bool = False) -> float:
    began, memory = time.monotonic(), Memory("cpu")
    for rung in steps:
        keep_freed_memory() if rung.keep else give_memory_back()
        before = memory.now()
        if rung.keep:  # its first run after the switch fetches the pages that it keeps
            _run(rung, bf16)
        start = time.perf_counter()
        loss = _run(rung, bf16)
        seconds = (time.perf_counter() - start) / rung.tuples
        measured[rung.name].append({"seconds": seconds, "loss": loss, "activations": memory.peak() - before})
        give_memory_back()
        memory.forget()
    return time.monotonic() - began


def _run(rung: Rung, bf16: bool) -> float:
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = rung.run()
    loss.backward()
    for parameter in rung.model.parameters():
        parameter.grad = None
    return float(loss.detach())
