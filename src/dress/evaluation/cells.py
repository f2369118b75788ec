"""The cells of an evaluation: every model under every condition, each a file of outcomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path

from dress import config
from dress.base.ranks import rank
from dress.data.shards import Sample
from dress.evaluation.answering import answer_everywhere
from dress.evaluation.outcomes import Outcome, evaluate, load_outcomes, save_outcomes
from dress.feedback.collect import CkptResponder
from dress.feedback.rater import Rater
from dress.rollout.responders import Sampling

Texts = Mapping[str, Sequence[str]]
"""Condition name to the condition text of each turn."""


def evaluate_cells(
    responders: Mapping[str, Callable[[], CkptResponder]],
    judge: Rater,
    samples: Sequence[Sample],
    settings: config.Eval,
    texts: Mapping[str, Mapping[str, str]],
    sampling: Sampling,
    folder: Path,
    devices: config.Devices,
    progress: Callable[[int], None] = lambda n: None,
) -> list[Outcome]:
    """Evaluate on all ranks, or read what an earlier call already finished; the first rank writes.

    Args:
        responders: model name to how its responder is had; only called when a cell is missing.
        judge: rates the answers.
        samples: held-out records.
        settings: conditions and turns.
        texts: of each model, condition name to its text.
        sampling: greedy.
        folder: holds `<model>-<condition>.jsonl`.
        training: devices and strategy of the loop.
        progress: called with the number of finished answers.

    Returns:
        All outcomes; only those that were not there before on ranks after the first.
    """
    outcomes: list[Outcome] = []
    before = [0, *accumulate(len(record.dialogues) for record, _ in samples)]
    for model, make in responders.items():
        later = [texts[model][settings.refine_condition]] * (settings.turns - 1)
        files: dict[str, Path] = {condition: folder / f"{model}-{condition}.jsonl" for condition in settings.conditions}
        missing = {
            condition: [texts[model][condition], *later] for condition, file in files.items() if not file.exists()
        }
        if missing:
            responder = make()

            def work(
                records: range, responder: CkptResponder = responder, model: str = model, missing: Texts = missing
            ) -> list[Outcome]:
                return evaluate(
                    responder, judge, [samples[i] for i in records], model=model, texts=missing,
                    sampling=sampling, first=before[records.start], progress=progress,
                )  # fmt: skip

            found = answer_everywhere(responder.model, work, len(samples), devices)
            if rank() > 0:
                outcomes += found
                continue
            for condition in missing:
                save_outcomes(files[condition], [o for o in found if o.condition == condition])
        if rank() == 0:
            outcomes += [outcome for file in files.values() for outcome in load_outcomes(file)]
    return outcomes
