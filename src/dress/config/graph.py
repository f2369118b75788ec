"""What follows from the names in a curriculum: which models are evaluated, how they are asked, what they descend from.

Pure functions of the settings.
"""

from __future__ import annotations

from dress.config.stages import Curriculum, EvalStage, TrainStage
from dress.config.types import CONDITIONED_PHASES, Condition


def evaluation(curriculum: Curriculum) -> str | None:
    """The eval stage whose figures are the run's: the last one that runs; None where none does."""
    names = [name for name in curriculum.order if isinstance(curriculum.stages[name], EvalStage)]
    return names[-1] if names else None


def evaluated_stages(curriculum: Curriculum, name: str | None = None) -> dict[str, str]:
    """Label to train stage: whose models an eval stage evaluates.

    Args:
        curriculum: the stages.
        name: of the eval stage; None for the one whose figures are the run's.
    """
    stage = curriculum.stages.get(name or evaluation(curriculum) or "")
    return dict(stage.models) if isinstance(stage, EvalStage) else {}


def lineage(curriculum: Curriculum, stage: str) -> list[str]:
    """The train stages that a stage's weights went through, from the first to the stage itself."""
    line: list[str] = []
    name: str | None = stage
    while name is not None and isinstance(one := curriculum.stages.get(name), TrainStage):
        line.append(name)
        name = one.weights
    return line[::-1]


def headline(curriculum: Curriculum) -> dict[str, Condition]:
    """Label to the condition that its model is meant to be asked under: praise once it has learned from feedback."""
    return {
        label: "praise" if any(_learns(curriculum, name) for name in lineage(curriculum, source)) else "none"
        for label, source in evaluated_stages(curriculum).items()
    }


def taught_by(curriculum: Curriculum, stage: str) -> str | None:
    """The stage that taught a stage's model what a condition means: the nearest that it descends from.

    A model that was taught none is asked in the form that the next stage after it teaches, to be compared with that
    one: then the first of its descendants, or of all that follow. None where no stage teaches any.
    """
    before = lineage(curriculum, stage)
    after = [name for name in curriculum.trained() if name not in before]
    heirs = [name for name in after if stage in lineage(curriculum, name)]
    return next((name for name in [*reversed(before), *heirs, *after] if _conditioned(curriculum, name)), None)


def steps_before(curriculum: Curriculum, stage: str) -> int:
    """Optimiser steps of the train stages that run before a stage: where its curves begin."""
    names = curriculum.order[: curriculum.order.index(stage)]
    return sum(one.steps for name in names if isinstance(one := curriculum.stages[name], TrainStage))


def _learns(curriculum: Curriculum, name: str) -> bool:
    stage = curriculum.stages[name]
    return isinstance(stage, TrainStage) and stage.learns_from_feedback


def _conditioned(curriculum: Curriculum, name: str) -> bool:
    stage = curriculum.stages[name]
    return isinstance(stage, TrainStage) and bool(CONDITIONED_PHASES & stage.phases.keys())
