"""Where sharing pays and where it loses: branches, image tokens and length of answers, on a slice of the model."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from dress.dialogue.batch import Example, collate
from dress.dialogue.tree import build_tree
from dress.kernels.memory import keep_freed_memory
from dress.model.composed import ComposedLVLM
from dress.model.head import head_loss
from steps import models
from steps.models import ModelSpec
from steps.results import operations_ratio
from steps.rounds import Say, paired
from steps.tuples import Shape, make

BRANCHES, IMAGES, ANSWERS = (1, 2, 4, 8), (64, 144, 256, 576), (32, 128, 512)


@dataclass(frozen=True)
class Cell:
    """So many answers, each after a critique of its own, to one question about one image (0 tokens: text only)."""

    branches: int
    image: int
    answer: int

    @property
    def shape(self) -> Shape:
        return Shape(image=self.image, answer=self.answer, chain=0, critiques=self.branches)


def cells(full: bool) -> list[Cell]:
    """Every combination, or (a few minutes) one thing changed at a time around the middle, and the corners."""
    if full:
        return [Cell(1, 0, 128), *(Cell(*one) for one in product(BRANCHES, IMAGES, ANSWERS))]
    middle = [Cell(k, image, 128) for k, image in product(BRANCHES, (64, 256, 576))]
    return [Cell(1, 0, 128), *middle, Cell(4, 256, 32), Cell(4, 256, 512), Cell(8, 64, 512), Cell(8, 576, 32)]


def sweep(
    spec: ModelSpec, chosen: Iterable[Cell], rounds: int, seconds: float, bf16: bool, say: Say
) -> list[dict[str, Any]]:
    """Forward and backward pass of every cell as a tree and as separate sequences; stops (said) after `seconds`.

    Returns:
        one entry per cell: `tokens` and `operations` (sequences ÷ tree), `ratio` (time, with its interval), and for
        one branch, in three times the rounds, `plain`: the tree's time ÷ that of the same model without a tree, as
        one causal sequence.
    """
    until = time.monotonic() + seconds
    keep_freed_memory()
    model = models.ours(spec, Shape(image=16))  # its tower sees nothing: words stand in the image's place
    words = spec.sizes.vocabulary - len(models.NAMES)
    out: list[dict[str, Any]] = []
    todo = list(chosen)
    for number, cell in enumerate(todo):
        if time.monotonic() > until:
            say(f"sweep: its time is over after {number} of {len(todo)} cells")
            break
        out.append(_cell(model, cell, words, rounds * (3 if cell.branches == 1 else 1), bf16))
        out[-1]["operations"] = operations_ratio(cell.shape, spec.sizes)
        figures = out[-1]
        say(
            f"sweep: {cell.branches} x {cell.answer} tokens after {cell.image} image tokens: "
            f"{figures['tokens']:.2f} x the tokens, {figures['ratio']['ratio']:.2f} x the time"
        )
    return out


def _cell(model: ComposedLVLM, cell: Cell, words: int, rounds: int, bf16: bool) -> dict[str, Any]:
    encoded = make(replace(cell.shape, words=words), 0, image=False).encoded()
    shared, separate = ([build_tree(encoded)], [build_tree([one]) for one in encoded])
    forests = {name: collate([Example(trees, None)], 10**6).forests[0] for name, trees in
               (("tree", shared), ("sequences", separate))}  # fmt: skip
    runs: dict[str, Callable[[], Tensor]] = {
        name: lambda forest=forest: model(forest, forest.weight / forest.weight.sum())[0]  # type: ignore[misc]
        for name, forest in forests.items()
    }
    if cell.branches == 1:
        runs["plain"] = lambda: _plain(model, forests["tree"])
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = run()
            loss.backward()
            if number:
                times[name].append(time.perf_counter() - began)
            model.zero_grad()
    sizes = {name: forest.tokens for name, forest in forests.items()}
    figures: dict[str, Any] = {
        "branches": cell.branches, "image": cell.image, "answer": cell.answer,
        "unique": sizes["tree"], "tokens": sizes["sequences"] / sizes["tree"],
        "seconds": {name: statistics.median(one) for name, one in times.items()},
        "ratio": paired(times["sequences"], times["tree"]),
    }  # fmt: skip
    if "plain" in times:
        figures["plain"] = paired(times["tree"], times["plain"])
    return figures


def _plain(model: ComposedLVLM, forest: Any) -> Tensor:
    """Loss of a single sequence without a plan: transformers' own mask, PyTorch's attention."""
    hidden = model.language.base_model(input_ids=forest.ids[None], use_cache=False).last_hidden_state[0]
    rows, where = torch.unique(forest.row, return_inverse=True)
    head: Any = model.language.get_output_embeddings()
    factor = forest.weight / forest.weight.sum()
    return head_loss(hidden[rows], head.weight, where, forest.target, factor)[0]
