"""Which weights an output depends on."""

from __future__ import annotations

from torch import Tensor


def leaves(output: Tensor) -> set[int]:
    """The ids of all leaves that an output depends on."""
    reached, visited, nodes = set(), set(), [output.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        if hasattr(node, "variable"):
            reached.add(id(node.variable))
        nodes += [before for before, _ in node.next_functions]
    return reached
