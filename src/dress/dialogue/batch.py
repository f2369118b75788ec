"""Forests: token trees padded side by side, as tensors.

Shapes: B rows (trees), S tokens, E entries, N images.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from dress.dialogue.tree import Tree

PHASE_NAMES = ("align", "sft", "critique", "refinement", "rating", "best_of")
NO_IMAGE = -1


@dataclass
class Forest:
    """What one forward pass takes.

    `ids` [B, S] (encode.IMAGE marks image tokens), `depth` [B, S] positions, `subtree_end` [B, S];
    padding attends to itself only and predicts nothing. `image` [B] is the row of `pixels`
    [N, 3, H, W], or -1. Entries: `row` [E] = b * S + s predicts `target` [E] with `weight` [E] for
    `phase` [E] (index into `PHASE_NAMES`).
    """

    ids: Tensor
    depth: Tensor
    subtree_end: Tensor
    image: Tensor
    pixels: Tensor | None
    row: Tensor
    target: Tensor
    weight: Tensor
    phase: Tensor
    tokens: int

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Forest:
        def move(value: Any) -> Any:
            return value.to(device, non_blocking=non_blocking) if isinstance(value, Tensor) else value

        return Forest(**{field.name: move(getattr(self, field.name)) for field in fields(self)})

    def mask(self) -> Tensor:
        """Ancestor mask, bool [B, 1, S, S]: query q sees key k if k is q or one of its ancestors."""
        position = torch.arange(self.ids.shape[1], device=self.ids.device)
        q, k = position[:, None], position[None, :]
        return ((k <= q) & (q < self.subtree_end[:, None, :]))[:, None]


@dataclass
class Step:
    """What one optimiser step trains on, on one rank: forests, and the number of records in them."""

    forests: list[Forest]
    records: int

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Step:
        return Step([forest.to(device, non_blocking) for forest in self.forests], self.records)


@dataclass
class Sample:
    """One record, ready to train on: its trees (one, or one per dialogue) and its pixels [3, H, W]."""

    trees: list[Tree]
    pixels: Tensor | None


def collate(samples: Iterable[Sample], tokens_per_forest: int) -> Step:
    """Pack samples into forests of at most `tokens_per_forest` padded tokens; a tree is never cut.

    Trees of like length stand together, so that padding is small.
    """
    kept = [sample for sample in samples if sample.trees]
    pairs = sorted(
        ((tree, number) for number, sample in enumerate(kept) for tree in sample.trees),
        key=lambda pair: len(pair[0]),
        reverse=True,
    )
    forests: list[Forest] = []
    group: list[tuple[Tree, int]] = []
    for pair in pairs:
        if group and (len(group) + 1) * len(group[0][0]) > tokens_per_forest:
            forests.append(_forest(group, kept))
            group = []
        group.append(pair)
    if group:
        forests.append(_forest(group, kept))
    return Step(forests, len(kept))


def _forest(group: list[tuple[Tree, int]], samples: list[Sample]) -> Forest:
    rows, width = len(group), len(group[0][0])
    ids = torch.zeros(rows, width, dtype=torch.long)
    depth = torch.zeros(rows, width, dtype=torch.long)
    subtree_end = torch.arange(1, width + 1).repeat(rows, 1)
    row: list[int] = []
    target: list[int] = []
    weight: list[float] = []
    phase: list[int] = []
    images: list[int] = []
    pixels: list[Tensor] = []
    place: dict[int, int] = {}
    for b, (tree, number) in enumerate(group):
        size = len(tree)
        ids[b, :size] = torch.tensor(tree.ids)
        depth[b, :size] = torch.tensor(tree.depth)
        subtree_end[b, :size] = torch.tensor(tree.subtree_end)
        for source, token, w, name in tree.entries:
            row.append(b * width + source)
            target.append(token)
            weight.append(w)
            phase.append(PHASE_NAMES.index(name))
        picture = samples[number].pixels
        if picture is None:
            images.append(NO_IMAGE)
            continue
        if number not in place:
            place[number] = len(pixels)
            pixels.append(picture)
        images.append(place[number])
    return Forest(
        ids=ids,
        depth=depth,
        subtree_end=subtree_end,
        image=torch.tensor(images),
        pixels=torch.stack(pixels) if pixels else None,
        row=torch.tensor(row),
        target=torch.tensor(target),
        weight=torch.tensor(weight, dtype=torch.float64),
        phase=torch.tensor(phase),
        tokens=sum(len(tree) for tree, _ in group),
    )
