"""An eval stage: from models and questions to judged answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dress.data.shards import Sample
from dress.evaluation.cells import Answering, Questions, ShareOut, evaluate_models
from dress.evaluation.outcomes import Outcome, load_outcomes
from dress.rater import Rater
from dress.rollout.responder import Sampling
from dress.train.run_data import name_damage
from dress.train.tasks import EvalTask
from dress.train.tools import Tools


def evaluate(
    task: EvalTask,
    responders: Mapping[str, Answering],
    judge: Rater,
    folder: Path,
    tools: Tools,
    share: ShareOut,
) -> None:
    """Write the outcomes of every model under every condition, but those that are there.

    Args:
        task: whose answers to what.
        responders: by label, how its responder is had, for a model whose answers are missing.
        judge: that the task names.
        folder: of the stage.
        tools: of the run.
        share: does the shares of the work, on all ranks.
    """
    sampling = Sampling(task.generation.max_new_tokens, task.generation.batch_size)
    questions = Questions(samples(task), judge, task.eval, task.conditions, sampling)
    name_damage(folder, task.questions.shards)
    missing = sum(not file.exists() for label in task.models for file in cells(task, folder, label))
    tools.progress.start(task.name, missing * questions.dialogues * task.eval.turns)
    evaluate_models(
        responders, questions, folder,
        share_out=share, progress=tools.progress.advance,
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
