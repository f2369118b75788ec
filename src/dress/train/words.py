"""A step of `objective: words`, over all forests and ranks (objectives.words).

All images of a step go through encoder and projector before its one backward pass: memory grows with their number.

Shapes as there; P pairs of this rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from dress import config
from dress.base.ranks import of_ranks
from dress.dialogue.batch import Batch, Forest
from dress.model.composed import ComposedLVLM
from dress.objectives.words import Pairs, word_loss, word_scores

NO_PAIRS = Pairs(*(torch.zeros(0, dtype=dtype) for dtype in (torch.long, torch.long, torch.float64, torch.long)))


@dataclass(frozen=True)
class Costs:
    """What a step costs.

    Attributes:
        loss: [], of all ranks, with gradient to the images of this one.
        learned: whether there is anything to learn: a pair, and two images, on all ranks together.
        cost: [P], in nats.
        weight: [P], float64.
        phase: [P].
        best: bool [P], whether no image has a higher score for the word.
    """

    loss: Tensor
    learned: bool
    cost: Tensor
    weight: Tensor
    phase: Tensor
    best: Tensor


def word_costs(model: ComposedLVLM, centre: Tensor, step: Batch, phases: Sequence[str], rank: int = 0) -> Costs:
    """How well words of a step's answers find their images.

    Args:
        model: its encoder and projector give the images.
        centre: [D], its mean word embedding.
        step: this rank's share.
        phases: names; `Costs.phase` are indices of them.
        rank: which of the processes that share the step this is.

    Returns:
        The costs of this rank's pairs, and the loss of all.
    """
    images: list[Tensor] = []
    parts = [NO_PAIRS]
    for forest in step.forests:
        tokens = model.images_by_tree(forest)
        first = {number: tree for tree, number in reversed(list(zip(tokens, forest.image, strict=True)))}
        numbers = {number: len(images) + place for place, number in enumerate(first)}
        parts.append(_pairs(forest, dict(zip(tokens, (numbers[n] for n in forest.image), strict=True)), phases))
        images += [tokens[tree] for tree in first.values()]
    shares = of_ranks((len(images), _joined(parts)))
    starts = [sum(number for number, _ in shares[:r]) for r in range(len(shares))]
    pairs = _joined([_moved(share, start) for (_, share), start in zip(shares, starts, strict=True)])
    device = model.device
    words, column = pairs.word.to(device).unique(return_inverse=True)
    with torch.autocast(device.type, enabled=False):
        own = word_scores(images, model.embed(words).detach(), centre)
        scores = of_ranks(own.detach().cpu())
        scores[rank] = own
        table = torch.cat([part.to(device) for part in scores])
        cost, weight, best = word_loss(table, pairs.image.to(device), column, pairs.weight.to(device))
        loss = (cost * weight.to(cost)).sum() / weight.sum().clamp(min=1e-12).to(cost)
    start = sum(len(share.word) for _, share in shares[:rank])
    mine = slice(start, start + len(shares[rank][1].word))
    learned = len(words) > 0 and len(table) > 1
    return Costs(loss, learned, cost.detach()[mine].cpu(), weight[mine].cpu(), pairs.phase[mine], best[mine].cpu())


def in_a_new_projector(settings: config.Config) -> tuple[config.Config, str | None]:
    """The settings with objective `lm` where `words` has no place, and a line that says so.

    It is for a projector that has not learned where its images lie, and that each process has whole.
    """
    stages = settings.curriculum.stages
    names = [
        name for name in settings.curriculum.order
        if isinstance(stage := stages[name], config.TrainStage) and stage.objective == "words"
    ]  # fmt: skip
    spread = settings.parallel.strategy == "shard"
    if not names or (isinstance(settings.model, config.ComposedModel) and not spread):
        return settings, None
    changed = {name: stages[name].model_copy(update={"objective": "lm"}) for name in names}
    curriculum = settings.curriculum.model_copy(update={"stages": {**stages, **changed}})
    why = (
        "with parallel.strategy=shard no process has the projector that words would learn from" if spread
        else "since words is for the new projector of a composed model"
    )  # fmt: skip
    line = f"stage {', '.join(names)}: objective=lm, {why}"
    return settings.model_copy(update={"curriculum": curriculum}), line


def mean_embedding(model: ComposedLVLM, chunk: int = 8192) -> Tensor:
    """The mean [D] of all words' embeddings as the language model takes them, in fp32."""
    number = model.text_config.vocab_size
    with torch.no_grad():
        parts = [
            model.embed(torch.arange(start, min(start + chunk, number), device=model.device)).float().sum(0)
            for start in range(0, number, chunk)
        ]
    return torch.stack(parts).sum(0) / number


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
