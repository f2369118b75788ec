"""An export stage: from a model to a folder that others load."""

from __future__ import annotations

import shutil
from pathlib import Path

from dress import config
from dress.base.run_folder import DONE
from dress.evaluation.suites.run import metrics
from dress.exports.model_folder import TrainedModel, export_model
from dress.model.checkpoint import read_model
from dress.phases.conditions import headline, own_condition
from dress.train.eval_stage import outcomes
from dress.train.tasks import EvalTask, ExportTask
from dress.train.tools import Tools

MODEL = "model"
"""The exported folder, in that of the stage."""


def export(task: ExportTask, evaluated: EvalTask | None, settings: config.Config, tools: Tools) -> None:
    """Write `model/` into the stage's folder.

    Args:
        task: which model, in which form.
        evaluated: the eval stage whose figures the card shows, if it has run.
        settings: of the run.
        tools: of the run.

    Raises:
        ValueError: what was written gives something else.
    """
    folder = Path(settings.run_dir) / "stages"
    out = folder / task.name / MODEL
    shutil.rmtree(out, ignore_errors=True)  # of a stage that was stopped
    figures = {}
    if evaluated is not None and (folder / evaluated.name / DONE).exists():
        figures = metrics(outcomes(evaluated, folder / evaluated.name), headline(settings.curriculum))
    condition = own_condition(settings.curriculum, task.stage.model)
    assert task.model.folder is not None
    model = read_model(task.model.folder, settings.model, exact=True)
    trained = TrainedModel(settings, task.stage.model, model.eval(), dict(task.conditions), condition, figures)
    shards = task.questions.shards
    samples = list(shards.readable(range(min(task.stage.compared, len(shards)))))
    proof = export_model(trained, task.stage, samples, out, tools.console)
    if proof is None:
        return
    tools.console.print(
        f"{task.name}: {out} ({proof.answers} of {proof.examples} answers equal)", highlight=False, soft_wrap=True
    )
