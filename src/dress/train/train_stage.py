"""A train stage: from a task to a model with other weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from dress import config
from dress.base.files import write_json
from dress.base.ranks import rank
from dress.data.stream import Stream
from dress.model.checkpoint import read_training_state
from dress.model.lvlm import LVLM
from dress.record import RecordError
from dress.train.callbacks import SaveCheckpoint, ShowProgress, build_callbacks
from dress.train.datamodule import StageData
from dress.train.examples import Examples
from dress.train.idle_phases import idle_phases
from dress.train.module import DressModule, TrainingStopped
from dress.train.optimizer import build_optimizer
from dress.train.parallel import build_trainer
from dress.train.reference import reference_scores
from dress.train.run_data import REJECTS
from dress.train.show import parameter_table
from dress.train.steps import HeldOut, StepDataset
from dress.train.supervision import NothingToLearn, Supervision
from dress.train.tasks import TrainTask
from dress.train.tools import Tools

MOST_HELD_OUT = 128
"""Records of the eval split whose loss is measured where data.validation names none."""
LAST = "last.ckpt"
"""The state of a stage that is not finished."""


@dataclass(frozen=True)
class HeldOutRecords:
    """Records that are not trained on: the first ones of a stream, or all."""

    stream: Stream
    most: int | None = None


def look_through(task: TrainTask, model: LVLM, tools: Tools) -> None:
    """Say of the records what a person should know before hours of training; the first process does.

    Raises:
        ValueError: nothing to learn, or dialogues that are too long; names data and rows.
        FileNotFoundError: the records are not there yet.
    """
    look = Supervision(
        task.name, task.stage, task.stage_objectives, task.phases, task.data, model.encoder, model.reader()
    )
    stream = task.records.stream(task.seed)
    try:
        lines = [*idle_phases(look, task, stream), *look.check(stream, tools.progress)]
    except NothingToLearn as nothing:
        if not task.may_be_idle:
            raise
        lines = [str(nothing)]
    for line in dict.fromkeys(lines):
        tools.console.print(line, highlight=False, markup=False, soft_wrap=True)


def check_learning(task: TrainTask, devices: config.Devices) -> None:
    """Build once, and drop, what a stage's settings name: what refuses its arguments does so before the first stage.

    Raises:
        ValueError: names the setting.
    """
    build_optimizer([torch.nn.Parameter(torch.zeros(1, 1))], task.stage, task.learning)
    trainer, what = task.learning.trainer, "callbacks"
    try:
        build_callbacks(task.learning.callbacks)
        what = "trainer"
        build_trainer(devices, precision=cast(Any, trainer.precision), **trainer.more())
    except (MisconfigurationException, TypeError, RuntimeError) as error:
        raise ValueError(f"{what}: Lightning refuses these settings: {' '.join(str(error).split())}") from None


def train(task: TrainTask, model: LVLM, folder: Path, tools: Tools, steps_before: int) -> None:
    """Train a model in place, or go on from `last.ckpt`; writes `history.json`.

    Args:
        task: what is learned from.
        model: with the weights that the task names.
        folder: of the stage.
        tools: of the run.
        steps_before: optimiser steps of earlier stages: where the curves begin.

    Raises:
        Interrupted: asked to stop; where it stands is saved.
        TrainingStopped: it learns nothing, or a loss, gradient or weight is not finite.
    """
    stage, settings = task.stage, task.learning.trainer
    model.set_trainable(list(stage.trainable))
    tools.console.print(parameter_table(model, f"stage {task.name}"))
    last = folder / LAST
    resumed = last.exists()
    begin = read_training_state(last)["global_step"] if resumed else 0
    records = stage.records_per_step if task.learning.training.overfit else task.records.count
    held_out = _held_out(task)
    data = _data(task, model, folder, held_out)
    reference = reference_scores(task, model, data.whole_steps(), folder, tools)
    tools.progress.start(task.name, stage.total_steps, begin)
    module = DressModule(
        model,
        stage,
        task.learning,
        steps_before,
        task.data.tokens_per_forest,
        records,
        task.stage_objectives,
        reference,
    )
    validates = held_out is not None
    if validates:
        module.validates_every = min(settings.val_check_interval, stage.total_steps)  # at its end at least
    trainer = build_trainer(
        tools.devices,
        precision=cast(Any, settings.precision),
        max_steps=stage.total_steps,
        max_epochs=1,
        logger=tools.loggers.of_stage(task.name, resumed, steps_before + begin),
        callbacks=[
            ShowProgress(tools.progress), SaveCheckpoint(last, task.learning.training.checkpoint_every),
            *build_callbacks(task.learning.callbacks),
        ],
        log_every_n_steps=1,
        val_check_interval=module.validates_every,
        check_val_every_n_epoch=None if validates else 1,
        **{"limit_val_batches": 1.0 if validates else 0, **settings.more()},
    )  # fmt: skip
    trainer.fit(
        module,
        datamodule=data,
        ckpt_path=str(last) if resumed else None,
        weights_only=True,
    )
    module.check_weights()
    _tell_unreached(task, module, tools)
    if rank() == 0:
        write_json(folder / "history.json", module.history)


def _held_out(task: TrainTask) -> HeldOutRecords | None:
    """Records whose loss is measured: those of data.validation, or of the eval split as far as they carry targets."""
    if task.validation:
        return HeldOutRecords(task.validation.stream())
    if not task.held_out:
        return None
    stream = task.held_out.stream()
    shards = stream.parts[0].shards
    several = range(min(len(shards), MOST_HELD_OUT))
    try:
        records = [shards.record(number) for number in several]
    except RecordError:  # named by the stage that needs it
        return None
    targets = (task.stage_objectives.dialogues(record, task.phases) for record in records)
    if any(span.weight for dialogues in targets for dialogue in dialogues for span in dialogue.spans):
        return HeldOutRecords(stream, MOST_HELD_OUT)
    return None


def _data(task: TrainTask, model: LVLM, folder: Path, held_out: HeldOutRecords | None) -> StageData:
    data = task.data
    reader = model.reader(data.images, data.max_aspect)
    examples = Examples(task.stage_objectives, task.phases, data, model.encoder, reader, folder / REJECTS)

    overfit = task.learning.training.overfit

    def trained(rank: int, world: int) -> StepDataset:
        return StepDataset(task.records.stream(task.seed), task.stage, examples, overfit, rank, world)

    def measured(rank: int, world: int) -> HeldOut:
        assert held_out is not None
        return HeldOut(held_out.stream, task.stage, examples, held_out.most, rank, world)

    return StageData(trained, data, measured if held_out else None)


def _tell_unreached(task: TrainTask, module: DressModule, tools: Tools) -> None:
    """Say how many steps taught nothing, or stop if none taught anything."""
    parts, steps = ", ".join(task.stage.trainable), module.unreached_steps
    if steps == task.stage.total_steps and not task.may_be_idle:
        raise TrainingStopped(
            f"no step reached a trained parameter: trainable {parts}, and no image in the records of "
            f"{task.stage.data_title}"
        )
    if steps:
        tools.console.print(
            f"{steps} of {task.stage.total_steps} steps held no image and reached nothing that is trained ({parts})",
            highlight=False,
        )
