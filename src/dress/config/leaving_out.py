"""`curriculum.without`: stages that a run leaves out, and what the others do in their place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dress.config.names import check_name


def leave_out(curriculum: Mapping[str, Any], without: Sequence[str]) -> dict[str, Any]:
    """A curriculum without some stages.

    A stage that starts from the weights of one that is left out starts from what that one would have started from; its
    label is not evaluated; where a goal (of `run`) is left out, all that it names takes its place.

    Args:
        curriculum: composed, with complete stages.
        without: names of stages.

    Raises:
        ValueError: there is no such stage, or another one reads what it collects.
    """
    stages: dict[str, Any] = dict(curriculum["stages"])
    for name in without:
        check_name("curriculum.without", name, stages)
    remaining = {name: dict(stage) for name, stage in stages.items() if name not in without}

    def weights(name: Any) -> Any:
        while name in without:
            name = stages[name].get("weights")
        return name

    for stage in remaining.values():
        if "weights" in stage:
            stage["weights"] = weights(stage["weights"])
        if isinstance(models := stage.get("models"), Mapping | list):
            labels = models if isinstance(models, Mapping) else dict(zip(models, models, strict=True))
            stage["models"] = {label: one for label, one in labels.items() if one not in without}
    run = curriculum.get("run")
    goals = [run] if isinstance(run, str) else list(run or ())
    instead = [one for name in goals if name in without for one in _named(stages[name]) if one in remaining]
    goals = list(dict.fromkeys([*(name for name in goals if name not in without), *instead]))
    for name in _reached(remaining, goals):
        for key, names in (("data", _data(remaining[name])), ("model", [remaining[name].get("model")])):
            if missing := [one for one in names if one in without]:
                raise ValueError(
                    f"curriculum.without={missing[0]}: stage {name} needs it. Leave {name} out too, or name another: "
                    f"curriculum.stages.{name}.{key}=…"
                )
    return {**curriculum, "stages": remaining, "run": goals, "without": []}


def _reached(stages: Mapping[str, Any], goals: Sequence[str]) -> list[str]:
    """The stages that run: the goals, and all that they name."""
    names: list[str] = []
    waiting = list(goals)
    while waiting:
        name = waiting.pop()
        if name in stages and name not in names:
            names.append(name)
            waiting += [*_named(stages[name]), *_data(stages[name])]
    return names


def _data(stage: Mapping[str, Any]) -> list[str]:
    """The splits and collect stages that a stage reads."""
    data = stage.get("data")
    return [data] if isinstance(data, str) else list(data or ())


def _named(stage: Mapping[str, Any]) -> list[str]:
    """The stages whose models a stage reads or evaluates."""
    models = stage.get("models") or ()
    values = models.values() if isinstance(models, Mapping) else models
    return [str(one) for one in (*values, stage.get("model"), stage.get("weights")) if one is not None]
