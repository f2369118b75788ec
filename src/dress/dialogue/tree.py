"""Token trees: all dialogues of a record merged into one trie, laid out depth first.

A token attends to its ancestors only, its position is its depth. Loss and gradients equal those of
the separate dialogues, because every token sees exactly what it would see in each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dress.dialogue.answers import TreeAnswer
from dress.dialogue.encode import EncodedDialogue


@dataclass(frozen=True)
class Segment:
    """A run of tokens that descends without branching off: [start, stop) of the layout.

    `before` are the runs [start, stop) of its ancestors above it, in order of depth.
    """

    start: int
    stop: int
    before: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Tree:
    """S tokens of a trie in depth-first order, the child with the longest way down first.

    Args:
        ids: int64 [S].
        depth: int64 [S], how many tokens stand above one.
        subtree_end: int64 [S], one past the last descendant of a token.
        segments: the layout cut into runs; every token stands in one.
        row: of each entry [E], where it is predicted: at the token before `target`, so that one row predicts
            the first token of *every* child.
        target: of each entry [E], the token that is predicted.
        weight: of each entry [E], float64; a token supervised by several dialogues of a phase has the sum of
            their weights.
        phase: of each entry [E], an index into `phases`.
        phases: names.
        positions: int64 [P, S] for rotary embeddings; None: the depth.
        until: int64 [S], one past the last token of the layout that each sees; None: none sees one behind it.
        answers: of dialogues that an objective compares; their entries stand there also where none has a weight.
    """

    ids: np.ndarray
    depth: np.ndarray
    subtree_end: np.ndarray
    segments: tuple[Segment, ...]
    row: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    phase: np.ndarray
    phases: tuple[str, ...]
    positions: np.ndarray | None = None
    until: np.ndarray | None = None
    answers: tuple[TreeAnswer, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(eq=False)
class _Node:
    """A run without branch: depths [start, stop) of dialogue `source`, whose ids it takes."""

    source: int
    start: int
    stop: int
    children: list[_Node] = field(default_factory=list)
    deepest: int = 0
    at: int = 0  # place in the layout


def build_tree(dialogues: Sequence[EncodedDialogue]) -> Tree:
    """Merge dialogues over one image into a trie and lay it out; costs grow with nodes, not with tokens."""
    return _build(dialogues, *sorted_prefixes([d.ids for d in dialogues]))


def _build(dialogues: Sequence[EncodedDialogue], order: list[int], shared: list[int]) -> Tree:
    ids = [d.ids for d in dialogues]
    root, ways = _trie(ids, order, shared)
    layout, segments = _lay_out(root)
    tokens = np.concatenate([ids[node.source][node.start : node.stop] for node in layout])
    depth = np.concatenate([np.arange(node.start, node.stop) for node in layout])
    subtree_end = np.empty(len(tokens), np.int64)
    for node in reversed(layout):
        last = node.children[-1] if node.children else None
        end = node.at + node.stop - node.start if last is None else int(subtree_end[last.at])
        subtree_end[node.at : node.at + node.stop - node.start] = end
    row, target, weight, phase, phases, answers = _entries(dialogues, ways, tokens)
    return Tree(
        tokens, depth, subtree_end, segments, row, target, weight, phase, phases,
        _positions(dialogues, layout), _until(dialogues, layout), answers,
    )  # fmt: skip


def _positions(dialogues: Sequence[EncodedDialogue], layout: list[_Node]) -> np.ndarray | None:
    like = next((one.positions for one in dialogues if one.positions is not None), None)
    if like is None:
        return None
    every = [
        np.tile(np.arange(len(one.ids)), (len(like), 1)) if one.positions is None else one.positions
        for one in dialogues
    ]
    return np.concatenate([every[node.source][:, node.start : node.stop] for node in layout], 1)


def _until(dialogues: Sequence[EncodedDialogue], layout: list[_Node]) -> np.ndarray | None:
    """As places of the layout: a block of tokens that see each other lies whole in one node."""
    if all(one.until is None for one in dialogues):
        return None
    parts = []
    for node in layout:
        until = dialogues[node.source].until
        part = np.arange(node.start + 1, node.stop + 1) if until is None else until[node.start : node.stop]
        assert part.max(initial=node.stop) <= node.stop, "a block of tokens that see each other, cut by a branch"
        parts.append(part + node.at - node.start)
    return np.concatenate(parts)


def build_trees(dialogues: Sequence[EncodedDialogue], budget: int) -> list[Tree]:
    """One tree, or several of at most `budget` tokens where one would be longer.

    Whole dialogues stay together with their neighbours in sorted order, so a part repeats only the
    prefix that it needs; no dialogue is ever cut, and answers that are compared stay in one tree. One dialogue, or
    one group of answers, above the budget is a tree of its own.
    """
    order, shared = sorted_prefixes([d.ids for d in dialogues])
    if any(one.answer for one in dialogues) and len(dialogues) > 1:
        return _with_groups(dialogues, order, shared, budget)
    parts: list[list[EncodedDialogue]] = []
    size = budget + 1
    for i, common in zip(order, shared, strict=True):
        size += len(dialogues[i].ids) - common
        if size > budget:
            parts.append([])
            size = len(dialogues[i].ids)
        parts[-1].append(dialogues[i])
    return [_build(dialogues, order, shared)] if len(parts) == 1 else [build_tree(part) for part in parts]


def groups_of(dialogues: Sequence[EncodedDialogue]) -> list[list[EncodedDialogue]]:
    """Dialogues that must share a tree: those of one group, others alone; in order of the first of each."""
    groups: dict[tuple[str, str] | int, list[EncodedDialogue]] = {}
    for number, one in enumerate(dialogues):
        groups.setdefault(number if one.answer is None else (one.phase, one.answer.group), []).append(one)
    return list(groups.values())


def _with_groups(dialogues: Sequence[EncodedDialogue], order: list[int], shared: list[int], budget: int) -> list[Tree]:
    """As `build_trees`, where some answers are compared."""
    whole = _build(dialogues, order, shared)
    if len(whole) <= budget:
        return [whole]
    parts: list[list[EncodedDialogue]] = []
    place = {id(dialogues[number]): rank for rank, number in enumerate(order)}
    for group in sorted(groups_of(dialogues), key=lambda group: min(place[id(one)] for one in group)):
        if parts and len(build_tree([*parts[-1], *group])) <= budget:
            parts[-1] += group
        else:
            parts.append(list(group))
    return [build_tree(part) for part in parts]


def sorted_prefixes(ids: Sequence[np.ndarray]) -> tuple[list[int], list[int]]:
    """Dialogues sorted by ids, and how many tokens each shares with the one before it in that order."""
    keys = [one.astype(">u4").tobytes() for one in ids]
    order = sorted(range(len(ids)), key=keys.__getitem__)
    shared = [0] * len(order)
    for i in range(1, len(order)):
        a, b = ids[order[i - 1]], ids[order[i]]
        size = min(len(a), len(b))
        different = a[:size] != b[:size]
        shared[i] = int(different.argmax()) if different.any() else size
    return order, shared


def _trie(ids: Sequence[np.ndarray], order: list[int], shared: list[int]) -> tuple[_Node, list[list[_Node]]]:
    """The compressed trie of sorted sequences, and each sequence's nodes from the root down."""
    root = _Node(order[0], 0, len(ids[order[0]]))
    ways: list[list[_Node]] = [[] for _ in ids]
    stack = [root]
    open_ways: list[list[int]] = [[order[0]]]  # sequences that end in or below each node of the stack
    ways[order[0]] = [root]
    for i, common in zip(order[1:], shared[1:], strict=True):
        while stack[-1].start >= common and len(stack) > 1:
            stack.pop()
            open_ways.pop()
        top = stack[-1]
        if common < top.stop:
            lower = _Node(top.source, common, top.stop, top.children)
            top.stop, top.children = common, [lower]
            for other in open_ways[-1]:
                ways[other].insert(ways[other].index(top) + 1, lower)
        way = list(stack)
        if len(ids[i]) > common:
            node = _Node(i, common, len(ids[i]))
            top.children.append(node)
            way.append(node)
        for others in open_ways:
            others.append(i)
        if way[-1] is not top:
            stack.append(way[-1])
            open_ways.append([i])
        ways[i] = way
    return root, ways


def _lay_out(root: _Node) -> tuple[list[_Node], tuple[Segment, ...]]:
    """Nodes in depth-first order, longest way first, with their places; and the segments."""
    nodes, todo = [], [root]
    while todo:
        node = todo.pop()
        nodes.append(node)
        todo += node.children
    for node in reversed(nodes):
        node.deepest = max((child.deepest for child in node.children), default=node.stop)
        node.children.sort(key=lambda child: -child.deepest)
    layout: list[_Node] = []
    runs: list[list[int]] = []  # [start, stop) of each segment
    above: list[tuple[tuple[int, int], ...]] = []
    place = 0
    waiting: list[tuple[_Node, int, tuple[tuple[int, int], ...]]] = [(root, -1, ())]
    while waiting:
        node, segment, before = waiting.pop()
        size = node.stop - node.start
        node.at = place
        layout.append(node)
        if segment < 0:
            segment = len(runs)
            runs.append([place, place])
            above.append(before)
        place += size
        runs[segment][1] = place
        here = (*above[segment], (runs[segment][0], place))
        for number, child in reversed(list(enumerate(node.children))):
            waiting.append((child, segment, ()) if number == 0 else (child, -1, here))
    return layout, tuple(
        Segment(start, stop, tuple(run for run in before if run[0] < run[1]))
        for (start, stop), before in zip(runs, above, strict=True)
    )


def _entries(
    dialogues: Sequence[EncodedDialogue], ways: list[list[_Node]], tokens: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, tuple[str, ...], tuple[TreeAnswer, ...]]:
    """Row, target, weight and phase of each supervised token, the phases, and the answers that are compared.

    A token's place says who shares it.
    """
    weights: dict[str, np.ndarray] = {}
    read: dict[str, np.ndarray] = {}  # tokens that an objective reads, with a weight or without
    rows = np.arange(-1, len(tokens) - 1)
    compared: list[tuple[EncodedDialogue, np.ndarray]] = []
    for dialogue, way in zip(dialogues, ways, strict=True):
        assert not dialogue.weights[:1].any(), "the first token of a dialogue has no row to be predicted from"
        sums = weights.setdefault(dialogue.phase, np.zeros(len(tokens)))
        learned = dialogue.answer is None or dialogue.answer.learned
        above = None
        for node in way:
            if learned:
                sums[node.at : node.at + node.stop - node.start] += dialogue.weights[node.start : node.stop]
            if above is not None and node.stop > node.start:
                rows[node.at] = above
            if node.stop > node.start:
                above = node.at + node.stop - node.start - 1
        if dialogue.answer is not None:
            layout = np.concatenate([np.arange(node.at, node.at + node.stop - node.start) for node in way])
            places = layout[dialogue.weights > 0]
            read.setdefault(dialogue.phase, np.zeros(len(tokens), bool))[places] = True
            compared.append((dialogue, places))
    by_phase = {
        name: np.flatnonzero(sums if name not in read else (sums > 0) | read[name]) for name, sums in weights.items()
    }
    places = np.concatenate(list(by_phase.values()))
    values = np.concatenate([weights[name][where] for name, where in by_phase.items()])
    phase = np.repeat(np.arange(len(by_phase)), [len(where) for where in by_phase.values()])
    starts = dict(zip(by_phase, np.cumsum([0, *(len(where) for where in by_phase.values())]), strict=False))
    answers = tuple(
        TreeAnswer(
            one.phase, one.answer, one.key,
            starts[one.phase] + np.searchsorted(by_phase[one.phase], where), one.weights[one.weights > 0],
        )
        for one, where in compared
        if one.answer is not None
    )  # fmt: skip
    return rows[places], tokens[places], values, phase, tuple(weights), answers
