"""Trees and forests from tokenised records: how many per second and core, and how full the forests are."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from dress.dialogue.batch import Example, collate
from dress.dialogue.encode import EncodedDialogue
from dress.dialogue.tree import build_trees
from steps.tuples import Shape, make

FOREST = 16384


def mixed_shape(rng: np.random.Generator) -> Shape:
    """Log-normal lengths around STD-256's, one to four answers in the chain, none to four after critiques (ours)."""

    def length(median: float) -> int:
        return int(np.clip(rng.lognormal(np.log(median), 0.6), 4, 600))

    return Shape(
        image=256, question=length(30), answer=length(90), advice=length(45), critique=length(45),
        chain=int(rng.integers(1, 5)), critiques=int(rng.integers(0, 5)),
    )  # fmt: skip


def records(count: int, seed: int = 0) -> list[list[EncodedDialogue]]:
    """Dialogues of random tuples of mixed lengths."""
    rng = np.random.default_rng(seed)
    return [make(mixed_shape(rng), number, image=False).encoded() for number in range(count)]


def measure(count: int = 512, per_step: int = 64, rounds: int = 5) -> dict[str, Any]:
    """Best of `rounds` over the records, in CPU seconds of this thread.

    Returns:
        `tuples_per_second`, `fill` of all forests but the last of each step, `tokens`: sequences ÷ trees.
    """
    held = records(count)
    best, capacity, filled, unique = float("inf"), 0, 0, 0
    for _ in range(rounds):
        began, capacity, filled, unique = time.thread_time(), 0, 0, 0
        for first in range(0, count, per_step):
            samples = [Example(build_trees(one, FOREST), None) for one in held[first : first + per_step]]
            step = collate(samples, FOREST)
            capacity, filled = capacity + step.capacity, filled + step.filled
            unique += sum(forest.tokens for forest in step.forests)
        best = min(best, time.thread_time() - began)
    every = sum(len(one.ids) for dialogues in held for one in dialogues)
    return {"tuples_per_second": count / best, "fill": filled / capacity, "tokens": every / unique}
