"""What follows from the names in a curriculum: which models are evaluated, and what they descend from."""

from __future__ import annotations

from dress.config.export import ExportStage
from dress.config.stages import CollectStage, Curriculum, EvalStage, Stage, TrainStage


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


def final_stages(curriculum: Curriculum) -> dict[str, str]:
    """Train stages that no other one goes on from, by their own names: what a run without an eval stage ends with."""
    trained = {name: one for name in curriculum.order if isinstance(one := curriculum.stages[name], TrainStage)}
    used = {one.weights for one in trained.values()}
    return {name: name for name in trained if name not in used}


def last_trained(curriculum: Curriculum) -> str:
    """The train stage that ends last: whose model a run is, where nobody says which.

    Raises:
        ValueError: no stage trains.
    """
    trained = [name for name in curriculum.order if isinstance(curriculum.stages[name], TrainStage)]
    if not trained:
        raise ValueError(f"curriculum.run={curriculum.order}: expected a train stage, found none")
    return trained[-1]


def description(stage: Stage) -> str:
    """What a stage does, by the names of what it uses: `critique, refinement on collect, from sft`."""
    match stage:
        case TrainStage():
            words = "words of " if stage.objective == "words" else ""
            return (
                f"{words}{', '.join(stage.phases)} on {stage.data_title}, from {stage.weights or 'the initial model'}"
            )
        case CollectStage():
            under = "" if stage.condition == "none" else f" under {stage.condition}"
            return f"answers of {stage.model}{under} to {stage.data}"
        case EvalStage():
            return f"answers of {', '.join(stage.models)} to {stage.data}"
        case ExportStage():
            return f"{stage.model} as a folder for others"


def amount(steps: int, epochs: float | None) -> str:
    """How long a train stage is: `34 steps`, or `2 epochs = 34 steps`."""
    passes = "" if epochs is None else f"{epochs:g} epoch{'' if epochs == 1 else 's'} = "
    return f"{passes}{steps:,} step{'' if steps == 1 else 's'}"


def lineage(curriculum: Curriculum, stage: str) -> list[str]:
    """The train stages that a stage's weights went through, from the first to the stage itself."""
    line: list[str] = []
    name: str | None = stage
    while name is not None and isinstance(one := curriculum.stages.get(name), TrainStage):
        line.append(name)
        name = one.weights
    return line[::-1]


def steps_before(curriculum: Curriculum, stage: str) -> int:
    """Optimiser steps of the train stages that run before a stage: where its curves begin."""
    names = curriculum.order[: curriculum.order.index(stage)]
    return sum(one.total_steps for name in names if isinstance(one := curriculum.stages[name], TrainStage))
