"""Epochs in steps: how many a stage takes is known once its records are counted, before any stage begins."""

from __future__ import annotations

import math
from fractions import Fraction

from dress import config
from dress.config.graph import amount
from dress.config.stages import SPLITS
from dress.config.types import MOST
from dress.train.run_data import RunData


def in_steps(settings: config.Config, data: RunData) -> tuple[config.Config, list[str]]:
    """The settings with the steps of every stage that runs for epochs; and a line on each such stage.

    What a collect stage of the same run writes counts as the records that it asks about, so that all is known
    beforehand. Steps that a resumed run has made of its epochs stay.

    Args:
        settings: of the run.
        data: of the run.

    Raises:
        FileNotFoundError, ValueError: a split that is missing or damaged, or more steps than a stage may have; by name.
    """
    curriculum, stages = settings.curriculum, dict(settings.curriculum.stages)
    lines = []
    for name in curriculum.train_stages():
        stage = stages[name]
        if not isinstance(stage, config.TrainStage) or stage.epochs is None:
            continue
        if stage.steps is None:
            steps = _steps(stage, sum(_records(settings, data, one) for one in stage.data))
            if steps > MOST:
                raise ValueError(
                    f"curriculum.stages.{name}.epochs={stage.epochs:g}: expected at most {MOST:,} steps, got {steps:,}"
                )
            stage = stages[name] = stage.model_copy(update={"steps": steps})
        lines.append(f"stage {name}: {amount(stage.total_steps, stage.epochs)}")
    if not lines:
        return settings, []
    curriculum = curriculum.model_copy(update={"stages": stages})
    return settings.model_copy(update={"curriculum": curriculum}), lines


def _steps(stage: config.TrainStage, records: int) -> int:
    """Steps in which every record has been seen as often as the stage's epochs say; the last one may go further."""
    passes = Fraction(str(stage.epochs))  # 0.1 is a tenth, so that 0.1 epochs of 30 records are 3
    return max(1, math.ceil(passes * records / stage.records_per_step))


def _records(settings: config.Config, data: RunData, name: str) -> int:
    """How many records a split has, or a collect stage will have."""
    if name in SPLITS:
        return data.records({name: 1.0}, {}).count
    stage = settings.curriculum.stages[name]
    assert isinstance(stage, config.CollectStage), "all that is no split"
    return len(stage.asked(data.records({stage.data: 1.0}, {}).count))
