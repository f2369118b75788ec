"""Token trees: all dialogues of a record merged into one trie, laid out depth first (DESIGN §6).

A token attends to its ancestors only, its position is its depth. Loss and gradients equal those of
the separate dialogues, because every token sees exactly what it would see in each of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from dress.dialogue.encode import Encoded


@dataclass(frozen=True)
class Tree:
    """S tokens of a trie in depth-first order.

    `subtree_end[i]` is one past the last descendant of token i. `entries` are
    (source row, target id, weight, phase): the row before a token predicts it, and one row predicts
    the first token of *every* child. A token supervised by several dialogues has the sum of their weights.
    """

    ids: list[int]
    depth: list[int]
    subtree_end: list[int]
    entries: list[tuple[int, int, float, str]]

    def __len__(self) -> int:
        return len(self.ids)


def build_tree(dialogues: list[Encoded]) -> Tree:
    """Merge dialogues over one image. Sorted by ids, each shares its prefix with the one before."""
    ids: list[int] = []
    depth: list[int] = []
    ends: list[int] = []
    entries: dict[tuple[int, int, str], float] = {}
    path: list[int] = []
    before: tuple[int, ...] = ()
    for dialogue in sorted(dialogues, key=lambda d: d.ids):
        shared = _shared(before, dialogue.ids)
        for node in path[shared:]:
            ends[node] = len(ids)
        del path[shared:]
        for token in dialogue.ids[shared:]:
            depth.append(len(path))
            path.append(len(ids))
            ids.append(token)
            ends.append(0)
        for position, weight in enumerate(dialogue.weights):
            if weight:
                assert position > 0, "the first token of a dialogue has no row to be predicted from"
                entry = (path[position - 1], dialogue.ids[position], dialogue.phase)
                entries[entry] = entries.get(entry, 0.0) + weight
        before = dialogue.ids
    for node in path:
        ends[node] = len(ids)
    return Tree(ids, depth, ends, [(row, target, weight, phase) for (row, target, phase), weight in entries.items()])


def _shared(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Length of the common prefix."""
    length = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        length += 1
    return length
