"""Under which condition a model is meant to be asked, and the text of it that its own training put after the user's."""

from __future__ import annotations

from collections.abc import Mapping

from dress import config
from dress.config.graph import evaluated_stages, lineage
from dress.phases.critique import praise
from dress.phases.registry import PHASES, Phase


def headline(curriculum: config.Curriculum, models: Mapping[str, str] | None = None) -> dict[str, config.Condition]:
    """Label to the condition that its model is meant to be asked under: praise once it has learned from feedback.

    Args:
        curriculum: the stages.
        models: label to train stage; None for those that the run evaluates.
    """
    return {
        label: "praise" if any(_learns(curriculum, name) for name in lineage(curriculum, source)) else "none"
        for label, source in (evaluated_stages(curriculum) if models is None else models).items()
    }


def own_condition(curriculum: config.Curriculum, stage: str) -> config.Condition:
    """`praise` where the stage, or one that its weights went through, taught what a condition means; else `none`."""
    return "praise" if taught_by(curriculum, stage) in lineage(curriculum, stage) else "none"


def conditions(curriculum: config.Curriculum, phases: config.Phases, stage: str) -> dict[str, str]:
    """Condition to its text, in the form that a stage's model has learned.

    Args:
        curriculum: the stages; see `taught_by`.
        phases: the templates.
        stage: a train stage.
    """
    teacher = curriculum.stages.get(taught_by(curriculum, stage) or "")
    numbers = isinstance(teacher, config.TrainStage) and "rating" in teacher.phases
    return {"none": "", "praise": praise("rating" if numbers else phases.critique.condition, phases)}


def taught_by(curriculum: config.Curriculum, stage: str) -> str | None:
    """The stage that taught a stage's model what a condition means: the nearest that it descends from.

    A model that was taught none is asked in the form that the next stage after it teaches, to be compared with that
    one: the first of its descendants, or of all that follow. None where no stage teaches any.
    """
    before = lineage(curriculum, stage)
    after = [name for name in curriculum.train_stages() if name not in before]
    heirs = [name for name in after if stage in lineage(curriculum, name)]
    order = [*reversed(before), *heirs, *after]
    return next((name for name in order if any(one.conditioned for one in _phases(curriculum, name))), None)


def _learns(curriculum: config.Curriculum, name: str) -> bool:
    stage = curriculum.stages[name]
    reads = isinstance(stage, config.TrainStage) and stage.reads_feedback
    return reads or any(one.feedback for one in _phases(curriculum, name))


def _phases(curriculum: config.Curriculum, name: str) -> list[Phase]:
    """Of a train stage; a user's own count once their modules are loaded."""
    stage = curriculum.stages[name]
    names = stage.phases if isinstance(stage, config.TrainStage) else ()
    return [PHASES[one] for one in names if one in PHASES]
