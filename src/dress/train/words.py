"""A step of `objective: words`, over all forests and ranks (objectives.words).

Shapes as there; P pairs of this rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from torch import Tensor

from dress.dialogue.batch import Batch, Forest
from dress.model.composed import ComposedLVLM
from dress.objectives.words import Pairs, word_loss, word_scores

T = TypeVar("T")
NONE = Pairs(*(torch.zeros(0, dtype=dtype) for dtype in (torch.long, torch.long, torch.float64, torch.long)))


@dataclass(frozen=True)
class Costs:
    """What a step costs.

    `loss` [] of all ranks, with gradient to the images of this one; `cost` [P] in nats, `weight` [P] and `phase` [P] of
    its pairs, and whether their image says the word `loudest` [P].
    """

    loss: Tensor
    cost: Tensor
    weight: Tensor
    phase: Tensor
    loudest: Tensor


def word_costs(model: ComposedLVLM, step: Batch, phases: Sequence[str], world: int = 1, rank: int = 0) -> Costs:
    """How well words of a step's answers find their images.

    Args:
        model: its encoder and projector give the images.
        step: this rank's share.
        phases: names; `Costs.phase` are indices of them.
        world, rank: processes that share the step, and which this is.
    """
    images: list[Tensor] = []
    parts = [NONE]
    for forest in step.forests:
        trees = model.images_by_tree(forest)
        parts.append(_pairs(forest, {tree: len(images) + i for i, tree in enumerate(trees)}, phases))
        images += trees.values()
    shares = _of_ranks((len(images), _joined(parts)), world)
    starts = [sum(number for number, _ in shares[:r]) for r in range(world)]
    pairs = _joined([_moved(share, start) for (_, share), start in zip(shares, starts, strict=True)])
    device, embeddings = model.device, model.embeddings.detach()
    words, column = pairs.word.to(device).unique(return_inverse=True)
    with torch.autocast(device.type, enabled=False):
        own = word_scores(images, embeddings[words], embeddings.mean(0, dtype=torch.float32))
        scores = _of_ranks(own.detach().cpu(), world)
        scores[rank] = own
        table = torch.cat([part.to(device) for part in scores])
        cost, weight, loudest = word_loss(table, pairs.image.to(device), column, pairs.weight.to(device))
        loss = (cost * weight.to(cost)).sum() / max(float(weight.sum()), 1e-12)
    first = sum(len(share.word) for _, share in shares[:rank])
    mine = slice(first, first + len(shares[rank][1].word))
    return Costs(loss, cost.detach()[mine].cpu(), weight[mine].cpu(), pairs.phase[mine], loudest[mine].cpu())


def _pairs(forest: Forest, images: Mapping[int, int], phases: Sequence[str]) -> Pairs:
    """The words that are learned in a forest's trees with an image, each once a tree and phase; on the CPU.

    Args:
        forest: trees.
        images: the image's number by tree.
        phases: names.
    """
    entries = (forest.trees(forest.row), forest.target, forest.weight, forest.phase)
    tree, target, weight, phase = (entry.cpu() for entry in entries)
    numbers = torch.tensor([images.get(number, -1) for number in range(len(forest.starts) - 1)])
    columns = torch.tensor([phases.index(name) for name in forest.phases])
    rows = torch.stack([numbers[tree], target, columns[phase]])
    learned = (weight > 0) & (rows[0] >= 0)
    distinct, place = rows[:, learned].unique(dim=1, return_inverse=True)
    most = torch.zeros(distinct.shape[1], dtype=torch.float64).scatter_reduce(0, place, weight[learned], "amax")
    return Pairs(distinct[0], distinct[1], most, distinct[2])


def _moved(pairs: Pairs, start: int) -> Pairs:
    return Pairs(pairs.image + start, pairs.word, pairs.weight, pairs.phase)


def _joined(parts: Sequence[Pairs]) -> Pairs:
    return Pairs(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Pairs)))


def _of_ranks(mine: T, world: int) -> list[T]:
    """What every rank gives, in their order."""
    every: list[T] = [mine] * world
    if world > 1:
        torch.distributed.all_gather_object(every, mine)
    return every
