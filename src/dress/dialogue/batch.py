"""Forests: token trees side by side in one flat sequence, as tensors.

Shapes: T tokens, R trees, E entries, N images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dress.dialogue.answers import Answers, joined
from dress.dialogue.encode import IMAGE
from dress.dialogue.image import FEATURES, Picture, blank_inputs
from dress.dialogue.tree import Segment, Tree


@dataclass(frozen=True)
class ImageBatch:
    """Images that go through the encoder together.

    `inputs`: tensors by name, those of the images joined along the first axis. `numbers` of the images in their
    forest, and how many `tokens` each has.
    """

    inputs: dict[str, Tensor]
    numbers: tuple[int, ...]
    tokens: tuple[int, ...]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ImageBatch:
        """The same images on a device."""
        inputs = {name: value.to(device, non_blocking=non_blocking) for name, value in self.inputs.items()}
        return replace(self, inputs=inputs)


@dataclass
class Forest:
    """What one forward pass takes: trees one after another, without padding.

    `ids` [T] (encode.IMAGE marks image tokens), `depth` [T] in their trees, `subtree_end` [T] places in the
    forest. `starts` [R + 1]: tree r is [starts[r], starts[r + 1]). `segments`: runs that descend without
    branching off, places in the forest. `image` [R'] is the number, in `images`, of each tree that has an
    image, in order. Entries: `row` [E] predicts `target` [E] with `weight` [E] (float64) for `phase` [E]
    (index into `phases`, names). `positions` [P, T] for rotary embeddings, where they are not the depth.
    `until` [T]: one past the last place that a token sees, where tokens see some behind them. `answers`: those that
    an objective compares.
    """

    ids: Tensor
    depth: Tensor
    subtree_end: Tensor
    starts: tuple[int, ...]
    segments: tuple[Segment, ...]
    image: tuple[int, ...]
    images: tuple[ImageBatch, ...]
    row: Tensor
    target: Tensor
    weight: Tensor
    phase: Tensor
    phases: tuple[str, ...]
    positions: Tensor | None = None
    until: Tensor | None = None
    answers: Answers | None = None

    @property
    def tokens(self) -> int:
        """T."""
        return len(self.ids)

    def blank(self) -> Forest:
        """The same with nothing to see in its images (`Picture.blank`)."""
        return replace(self, images=tuple(replace(one, inputs=blank_inputs(one.inputs)) for one in self.images))

    def columns(self, phases: Sequence[str]) -> Tensor:
        """Each entry's phase [E] as an index into these names, on the CPU."""
        return torch.tensor([phases.index(name) for name in self.phases])[self.phase.cpu()]

    @property
    def seeing(self) -> Tensor:
        """Bool [E]: entries of trees with an image."""
        with_image = self.trees((self.ids == IMAGE).nonzero()[:, 0]).unique()
        return torch.isin(self.trees(self.row), with_image)

    def trees(self, places: Tensor) -> Tensor:
        """The number of the tree that each of these places lies in."""
        return torch.bucketize(places, torch.tensor(self.starts[1:], device=places.device), right=True)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Forest:
        """The same forest with its tensors on a device."""

        def move(value: Any) -> Any:
            return value.to(device, non_blocking=non_blocking) if isinstance(value, Tensor | Answers) else value

        moved = {field.name: move(getattr(self, field.name)) for field in fields(self)}
        images = tuple(batch.to(device, non_blocking) for batch in self.images)
        return Forest(**moved | {"images": images})


@dataclass
class Batch:
    """What one optimiser step trains on, on one rank.

    `records` are in the forests; the trees of `split` of them were too long for one. `capacity` is the token
    budget of all forests but the last, which holds what is left, and `filled` the tokens in them. `weight` is the
    sum over all entries, `images` the images in the forests, `idle` the records that gave nothing to learn, `places`
    where all of them stand, to name them.
    """

    forests: list[Forest]
    records: int
    split: int = 0
    capacity: int = 0
    filled: int = 0
    weight: float = 0.0
    images: int = 0
    idle: int = 0
    places: tuple[str, ...] = ()

    @property
    def stored(self) -> bool:
        """Whether its images are features that were computed before."""
        return any(FEATURES in one.inputs for forest in self.forests for one in forest.images)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch with its forests on a device."""
        return replace(self, forests=[forest.to(device, non_blocking) for forest in self.forests])


@dataclass
class Example:
    """One record, ready to train on: its trees (one, or one per dialogue), and its picture.

    `split`: it has several because one would have been longer than a forest. `where` names it in an error, `name`
    tells it from others of the stage, wherever its shards are.
    """

    trees: list[Tree]
    picture: Picture | None
    split: bool = False
    where: str = ""
    name: str = ""


def collate(samples: Iterable[Example], tokens_per_forest: int) -> Batch:
    """Pack whole trees into forests of at most `tokens_per_forest` tokens, as full as can be but the last.

    A tree above the budget is a forest of its own (`build_trees` makes none but for one dialogue
    above it).
    """
    every = list(samples)
    useful = [sample for sample in every if sample.trees]
    pairs = [(tree, number) for number, sample in enumerate(useful) for tree in sample.trees]
    groups = pack([len(tree) for tree, _ in pairs], tokens_per_forest)
    forests = [_forest([pairs[i] for i in group], useful) for group in groups]
    full = [forest.tokens for forest in forests[:-1] if forest.tokens <= tokens_per_forest]
    return Batch(
        forests,
        len(useful),
        split=sum(sample.split for sample in useful),
        capacity=len(full) * tokens_per_forest,
        filled=sum(full),
        weight=sum(float(forest.weight.sum()) for forest in forests),
        images=sum(sample.picture is not None for sample in useful),
        idle=len(every) - len(useful),
        places=tuple(sample.where for sample in every),
    )


def blank_forest(phase: str, device: torch.device | str = "cpu") -> Forest:
    """Two tokens of weight zero: a pass for a rank whose share of a step is smaller than another's."""
    return Forest(
        ids=torch.zeros(2, dtype=torch.long),
        depth=torch.arange(2),
        subtree_end=torch.full((2,), 2),
        starts=(0, 2),
        segments=(Segment(0, 2, ()),),
        image=(),
        images=(),
        row=torch.zeros(1, dtype=torch.long),
        target=torch.zeros(1, dtype=torch.long),
        weight=torch.zeros(1, dtype=torch.float64),
        phase=torch.zeros(1, dtype=torch.long),
        phases=(phase,),
    ).to(device)


def pack(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Bins of indices whose sizes sum to at most `budget`, each filled as well as can be in its turn.

    A bin takes the largest size that is left and, of the others, those that fill it best: sums that can
    be reached are the bits of a number. The last bin holds what is left. A size above the budget is
    alone in its bin.
    """
    waiting = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    bins: list[list[int]] = []
    while waiting:
        first, *others = waiting
        capacity = budget - sizes[first]
        members = [first, *_fullest([sizes[i] for i in others], capacity, others)] if capacity > 0 else [first]
        bins.append(members)
        packed = set(members)
        waiting = [i for i in waiting if i not in packed]
    return bins


def _fullest(sizes: list[int], capacity: int, names: list[int]) -> list[int]:
    """Names of sizes whose sum comes nearest to `capacity` from below."""
    if sum(sizes) <= capacity:
        return names
    within = (1 << (capacity + 1)) - 1
    sums = [1]  # bit n: the sizes up to here can sum to n
    for size in sizes:
        sums.append((sums[-1] | sums[-1] << size) & within)
    goal = sums[-1].bit_length() - 1
    members = []
    for number in range(len(sizes), 0, -1):
        if not sums[number - 1] >> goal & 1:
            members.append(names[number - 1])
            goal -= sizes[number - 1]
    return members


def _forest(group: list[tuple[Tree, int]], samples: list[Example]) -> Forest:
    starts = [0, *np.cumsum([len(tree) for tree, _ in group]).tolist()]
    image: list[int] = []
    pictures: list[Picture] = []
    place: dict[int, int] = {}
    for _, number in group:
        picture = samples[number].picture
        if picture is None:
            continue
        if number not in place:
            place[number] = len(pictures)
            pictures.append(picture)
        image.append(place[number])

    def arrays_of(name: str, shifted: bool) -> Tensor:
        parts = [getattr(tree, name) for tree, _ in group]
        arrays = [part + start for part, start in zip(parts, starts, strict=False)] if shifted else parts
        return torch.from_numpy(np.concatenate(arrays))

    names = tuple(dict.fromkeys(name for tree, _ in group for name in tree.phases))
    phase = [np.array([names.index(name) for name in tree.phases])[tree.phase] for tree, _ in group]
    return Forest(
        ids=arrays_of("ids", False),
        depth=arrays_of("depth", False),
        subtree_end=arrays_of("subtree_end", True),
        starts=tuple(starts),
        segments=tuple(
            _moved(segment, at) for (tree, _), at in zip(group, starts, strict=False) for segment in tree.segments
        ),
        image=tuple(image),
        images=image_batches(pictures),
        row=arrays_of("row", True),
        target=arrays_of("target", False),
        weight=arrays_of("weight", False),
        phase=torch.from_numpy(np.concatenate(phase)),
        phases=names,
        positions=_positions(group),
        until=_until([tree for tree, _ in group], starts),
        answers=joined(
            [tree.answers for tree, _ in group], np.cumsum([0, *(len(tree.row) for tree, _ in group)]).tolist(),
            [samples[number].name for _, number in group],
        ),
    )  # fmt: skip


def image_batches(pictures: Sequence[Picture]) -> tuple[ImageBatch, ...]:
    """Pictures whose inputs have the same names and sizes, but along the first axis, side by side."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for number, picture in enumerate(pictures):
        kind = tuple((name, value.shape[1:], value.dtype) for name, value in picture.inputs.items())
        groups.setdefault(kind, []).append(number)
    return tuple(
        ImageBatch(
            {name: torch.cat([pictures[n].inputs[name] for n in numbers]) for name in pictures[numbers[0]].inputs},
            tuple(numbers),
            tuple(pictures[n].layout.tokens for n in numbers),
        )
        for numbers in groups.values()
    )


def _positions(group: list[tuple[Tree, int]]) -> Tensor | None:
    rows = next((len(tree.positions) for tree, _ in group if tree.positions is not None), None)
    if rows is None:
        return None
    parts = [np.tile(tree.depth, (rows, 1)) if tree.positions is None else tree.positions for tree, _ in group]
    return torch.from_numpy(np.concatenate(parts, 1))


def _until(trees: Sequence[Tree], starts: Sequence[int]) -> Tensor | None:
    """Of trees that stand at these places; a tree without blocks sees nothing behind a token."""
    if all(tree.until is None for tree in trees):
        return None
    parts = [
        (np.arange(1, len(tree) + 1) if tree.until is None else tree.until) + start
        for tree, start in zip(trees, starts, strict=False)
    ]
    return torch.from_numpy(np.concatenate(parts))


def _moved(segment: Segment, at: int) -> Segment:
    return Segment(
        segment.start + at, segment.stop + at, tuple((start + at, stop + at) for start, stop in segment.before)
    )
