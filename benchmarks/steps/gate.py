"""Do the arms learn the same? Targets, loss and gradients of the first step, in fp32."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from dress.dialogue.batch import Forest
from dress.dialogue.encode import IMAGE

LOSS, GRADIENT = 1e-5, 1e-4
"""Tolerances: of the loss, relative; of each tensor's gradient, relative to its norm."""


class Targets(Counter[str]):
    """(context, target) as a hash, to the weight that it is learned with."""

    def learn(self, context: list[int], target: int, weight: float) -> None:
        key = hashlib.sha256(repr((context, target)).encode()).hexdigest()[:24]
        self[key] += weight  # type: ignore[assignment]


def of_rows(targets: Targets, ids: Tensor, mask: Tensor, labels: Tensor, image: int) -> None:
    """What padded rows learn; `image` is the id that stands for image tokens there."""
    for row, real, goal in zip(ids, mask.bool(), labels, strict=True):
        context = [IMAGE if i == image else i for i in row[real].tolist()]
        for place, label in enumerate(goal[real].tolist()):
            if place and label != -100:
                targets.learn(context[:place], label, 1.0)


def of_forest(targets: Targets, forest: Forest) -> None:
    """What a forest learns: the context of a row are its ancestors and itself."""
    ids, depth, end = forest.ids.tolist(), forest.depth.tolist(), forest.subtree_end
    for row, target, weight in zip(forest.row.tolist(), forest.target.tolist(), forest.weight.tolist(), strict=True):
        above = (end[: row + 1] > row).nonzero()[:, 0].tolist()
        start = max((s for s in forest.starts if s <= row), default=0)
        context = [ids[place] for place in above if place >= start]
        assert len(context) == depth[row] + 1
        targets.learn(context, target, weight)


def save(folder: Path, loss: float, gradients: dict[str, Tensor], targets: Targets) -> None:
    """Keep a first step for `compare`."""
    folder.mkdir(parents=True, exist_ok=True)
    held = {name: gradient.detach().float().contiguous() for name, gradient in gradients.items()}
    save_file(held, folder / "gradients.safetensors", metadata={"loss": repr(loss)})
    lines = [f"{key} {weight}" for key, weight in sorted(targets.items())]
    (folder / "targets.txt").write_text("\n".join(lines) + "\n", encoding="ascii")


def compare(folder: Path, reference: Path) -> dict[str, Any]:
    """How far an arm's first step is from another's, and whether it passes.

    Returns:
        `loss` and `gradient` (the largest norm-relative error of a tensor, with its `tensor`), `targets`
        (same multiset of context, target and weight), `passes`.
    """
    result: dict[str, Any] = {"targets": _targets(folder) == _targets(reference)}
    with safe_open(folder / "gradients.safetensors", "pt") as one, \
         safe_open(reference / "gradients.safetensors", "pt") as two:  # fmt: skip
        losses = [float(file.metadata()["loss"]) for file in (one, two)]
        result["loss"] = abs(losses[0] - losses[1]) / abs(losses[1])
        names = set(two.keys())
        result["tensors"] = names == set(one.keys())
        worst = (0.0, "")
        for name in names & set(one.keys()):
            wanted = two.get_tensor(name)
            error = (one.get_tensor(name) - wanted).norm() / wanted.norm().clamp(min=1e-12)
            worst = max(worst, (float(error), name))
        result["gradient"], result["tensor"] = worst
    result["passes"] = bool(
        result["targets"] and result["tensors"] and result["loss"] <= LOSS and result["gradient"] <= GRADIENT
    )
    return result


def _targets(folder: Path) -> dict[str, float]:
    lines = (folder / "targets.txt").read_text(encoding="ascii").split("\n")[:-1]
    return {key: float(weight) for key, weight in (line.split() for line in lines)}
