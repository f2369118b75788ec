"""Log-probabilities of a stage's answers at its start, computed once and stored beside the stage's fingerprint.

Objectives that compare a model with its start (`dpo`, `kto`, `self_correction`) read them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dress.base.files import read_json, write_json
from dress.base.ranks import of_ranks, processes, rank
from dress.dialogue.batch import Batch, Forest
from dress.model.lvlm import LVLM
from dress.model.states import States
from dress.objectives.stage import StageObjectives
from dress.train.datamodule import reading
from dress.train.parallel import share_out
from dress.train.steps import StepDataset
from dress.train.tasks import TrainTask, fingerprint
from dress.train.tools import Tools

REFERENCE = "reference.json"


def reference_scores(
    task: TrainTask, model: LVLM, datasets: Sequence[StepDataset], folder: Path, tools: Tools
) -> dict[str, float]:
    """Log-probability in nats of every answer that the stage compares with its start, by key; on every rank.

    Args:
        task: of the stage.
        model: as the stage finds it.
        datasets: all that the stage reads, whole steps.
        folder: of the stage; holds `reference.json`.
        tools: of the run.

    Raises:
        Interrupted: asked to stop.
    """
    objectives = task.stage_objectives
    if not objectives.scoring:
        return {}
    file, made_from = folder / REFERENCE, [fingerprint(task), *(one.stream.fingerprint for one in datasets)]
    stored = _stored(file, made_from)  # on every rank: where Lightning starts them, they have not met yet
    if stored is not None:
        return stored
    steps = [(dataset, step) for dataset in datasets for step in _new_steps(dataset)]
    tools.progress.start(f"{task.name}: reference", len(steps))
    scores: dict[str, float] = {}
    half = task.learning.trainer.precision == "bf16-mixed"

    batches: Iterator[Batch] | None = None

    def work(number: int) -> None:
        nonlocal batches
        if batches is None:  # this process does every n-th step from here on
            batches = iter(DataLoader(_Steps(steps[number :: processes()]), **reading(task.data)))
        for forest in next(batches).forests:
            with torch.autocast(model.device.type, torch.bfloat16, enabled=half):
                scores.update(_of_forest(model, forest.to(model.device), objectives, scores))
        tools.progress.advance()

    def finish() -> None:
        for one in of_ranks(dict(scores)):
            scores.update(one)

    share_out(model, work, len(steps), finish, devices=tools.devices)
    tools.progress.end()
    if rank() == 0:
        write_json(file, {"made_from": made_from, "scores": scores})
    return scores


class _Steps(Dataset[Batch]):
    """Some steps of data sets."""

    def __init__(self, steps: Sequence[tuple[StepDataset, int]]) -> None:
        self.steps = steps

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, place: int) -> Batch:
        dataset, step = self.steps[place]
        return dataset[step]


def _stored(file: Path, made_from: Sequence[str]) -> dict[str, float] | None:
    content = read_json(file, dict) if file.exists() else {}
    return content["scores"] if content.get("made_from") == made_from else None


def _new_steps(dataset: StepDataset) -> list[int]:
    """Steps with a record that no earlier one has; all where its answers are drawn, or come from others of a step."""
    examples = dataset.examples
    if examples.objectives.mismatching or examples.data.dialogues_per_record:
        return list(range(len(dataset)))
    seen, steps = set[tuple[int, int]](), []
    for step in range(len(dataset)):
        places = {(place.part, place.sample) for place in dataset.places(step)}
        if places - seen:
            steps.append(step)
        seen |= places
    return steps


def _of_forest(model: LVLM, forest: Forest, objectives: StageObjectives, known: dict[str, float]) -> dict[str, float]:
    """Of the answers of a forest, unless all are known."""
    answers = forest.answers
    if answers is None:
        return {}
    phases = [phase for phase in objectives.scoring if phase in forest.phases]
    keys = {phase: [answers.key[number] for number in answers.of_phase(phase)] for phase in phases}
    if all(key in known for one in keys.values() for key in one):
        return {}
    read: Callable[[States], tuple[Tensor, Tensor]] = partial(_sums, forest, phases)
    with torch.no_grad():
        sums, _ = model(forest, forest.weight, read=read)
    return dict(zip([key for one in keys.values() for key in one], sums.tolist(), strict=True))


def _sums(forest: Forest, phases: Sequence[str], states: States) -> tuple[Tensor, Tensor]:
    """Log-probability of each answer of these phases, one phase after another."""
    assert forest.answers is not None
    sums = []
    for phase in phases:
        entries = (forest.phase == forest.phases.index(phase)).nonzero()[:, 0]
        values, _ = states.of_entries(entries).log_probs()
        sums.append(forest.answers.sums(phase, values, entries))
    every = torch.cat(sums) if sums else states.hidden.new_zeros(0)
    return every, every
