"""The conditions that a model is asked under, as the text that its own training put after the user's."""

from __future__ import annotations

from dress import config
from dress.config.graph import taught_by
from dress.phases.critique import praise


def conditions(curriculum: config.Curriculum, phases: config.Phases, stage: str) -> dict[str, str]:
    """Condition to its text, in the form that a stage's model has learned.

    Args:
        curriculum: the stages; see `graph.taught_by`.
        phases: the templates.
        stage: a train stage.
    """
    teacher = curriculum.stages.get(taught_by(curriculum, stage) or "")
    numbers = isinstance(teacher, config.TrainStage) and "rating" in teacher.phases
    return {"none": "", "praise": praise("rating" if numbers else phases.critique.condition, phases)}
