"""An eval stage: from models and questions to judged answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from dress.data.shards import Sample
from dress.evaluation.cells import Questions, evaluate_models
from dress.evaluation.outcomes import Outcome, load_outcomes
from dress.feedback.collect import CkptResponder
from dress.feedback.rater import Rater
from dress.model.lvlm import LVLM
from dress.rollout.responders import Sampling
from dress.train.parallel import Finish, Work, share_out
from dress.train.run_data import name_damage
from dress.train.tasks import EvalTask
from dress.train.tools import Tools


def evaluate(
    task: EvalTask, responders: Mapping[str, Callable[[], CkptResponder]], judge: Rater, folder: Path, tools: Tools
) -> None:
    """Write the outcomes of every model under every condition, but those that are there.

    Args:
        task: whose answers to what.
        responders: by label, how its responder is had; called for a model whose answers are missing.
        judge: that the task names.
        folder: of the stage.
        tools: of the run.
    """
    sampling = Sampling(task.generation.max_new_tokens, task.generation.batch_size)
    questions = Questions(samples(task), judge, task.eval, task.conditions, sampling)
    name_damage(folder, task.questions.shards)
    missing = sum(not file.exists() for label in task.models for file in cells(task, folder, label))
    tools.progress.start(task.name, missing * questions.dialogues * task.eval.turns)
    asked: list[LVLM] = []

    def noted(make: Callable[[], CkptResponder]) -> CkptResponder:
        responder = make()
        asked[:] = [responder.model]
        return responder

    def shared(work: Work, shares: int, finish: Finish) -> None:
        share_out(asked[0], tools.devices, work, shares, finish)

    evaluate_models(
        {label: partial(noted, make) for label, make in responders.items()}, questions, folder,
        share_out=shared, ranks=tools.devices.processes, progress=tools.progress.advance,
    )  # fmt: skip


def samples(task: EvalTask) -> list[Sample]:
    """The evaluated records with image bytes, in order."""
    shards = task.questions.shards
    return list(shards.readable(range(min(task.stage.records or len(shards), len(shards)))))


def cells(task: EvalTask, folder: Path, label: str) -> list[Path]:
    """The files of a model's outcomes, by condition."""
    return [folder / f"{label}-{condition}.jsonl" for condition in task.eval.conditions]


def outcomes(task: EvalTask, folder: Path) -> list[Outcome]:
    """All outcomes of a finished stage, in the order of their files' names."""
    files = sorted(file for label in task.models for file in cells(task, folder, label))
    return [outcome for file in files for outcome in load_outcomes(file)]
