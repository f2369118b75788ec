"""Names by which stages use each other: their settings (`like`), order, and places of other runs."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from dress.config.nearest import nearest

KINDS = ("train", "collect", "eval", "export")
AMOUNTS = ("steps", "epochs")
"""Of a train stage: one of them, which the other takes away wherever it stands above it."""


def check_name(key: str, name: str, names: Collection[str], expected: str = "one of the stages ({})") -> None:
    """Refuse a name that is none of `names`.

    Args:
        key: of the setting that holds the name.
        name: what it holds.
        names: that it may hold.
        expected: what they are; `{}` stands for the names.

    Raises:
        ValueError: names key, names and the nearest of them.
    """
    if name not in names:
        listed = ", ".join(names) or "there is none"
        raise ValueError(f"{key}: expected {expected.format(listed)}, got {name!r}.{nearest(name, list(names))}")


def is_place(weights: str) -> bool:
    """Whether `weights` of a stage is a folder (it has a slash) or `RUN_FOLDER:stage`, not a stage of the same run."""
    return re.search(r"[/\\:]", weights) is not None or weights in (".", "..")


def place_of(weights: str) -> Path:
    """The folder that holds a model: of `RUN_FOLDER:stage`, of a stage, or any other; without links.

    `logs/latest` names another run as soon as one begins, so links are followed now.
    """
    run, colon, stage = weights.rpartition(":")
    return (Path(run) / "stages" / stage if colon and "/" not in stage else Path(weights)).resolve()


def followed(curriculum: Mapping[str, Any]) -> dict[str, Any]:
    """A composed curriculum where `weights` from elsewhere are folders without links; see `place_of`."""
    stages = curriculum.get("stages")
    if not isinstance(stages, Mapping):
        return dict(curriculum)
    places = {
        name: {**stage, "weights": str(place_of(stage["weights"]))}
        for name, stage in stages.items()
        if isinstance(stage, Mapping) and isinstance(stage.get("weights"), str) and is_place(stage["weights"])
    }
    return {**curriculum, "stages": {**stages, **places}}


def with_likes(stages: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of stages where `like: NAME` has become the settings of that stage; their own stand above them.

    A mapping or list of its own replaces that of the other stage, and an amount of its own (`AMOUNTS`) the other's.

    Raises:
        ValueError: `like` names no stage, or stages are like each other; or a stage is of no kind.
    """

    def settings(name: str, above: tuple[str, ...]) -> Any:
        stage = stages[name]
        if not isinstance(stage, Mapping):
            return stage
        own = {key: value for key, value in stage.items() if key != "like"}
        if stage.get("like") is None:
            return own
        other = str(stage["like"])
        check_name(f"curriculum.stages.{name}.like", other, [one for one in stages if one != name])
        if other in above:
            raise ValueError(f"curriculum.stages: a circle of like: {' → '.join((*above, other))}")
        base = settings(other, (*above, other))
        if isinstance(base, Mapping) and any(own.get(key) is not None for key in AMOUNTS):
            base = {key: value for key, value in base.items() if key not in AMOUNTS}
        return {**base, **own} if isinstance(base, Mapping) else own

    complete = {name: settings(name, (name,)) for name in stages}
    kinds = {name: stage["kind"] for name, stage in complete.items() if isinstance(stage, Mapping) and "kind" in stage}
    for name, stage in complete.items():
        if isinstance(stage, Mapping) and "kind" not in stage:
            raise ValueError(
                f"curriculum.stages.{name}: expected kind: {', '.join(KINDS[:-1])} or {KINDS[-1]}, or like: another "
                f"stage.{nearest(name, list(kinds))}"
            )
    return complete


def in_order(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """The names, each after all that it needs; where that leaves a choice, as they stand.

    Args:
        needs: of each name the names that come before it, all among the keys.

    Raises:
        ValueError: names need each other in a circle.
    """
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        raise ValueError(f"curriculum.stages: a circle, {' → '.join(reversed(error.args[1]))}") from None
    order: list[str] = []
    while len(order) < len(needs):
        order.append(next(name for name in needs if name not in order and set(needs[name]) <= set(order)))
    return order
