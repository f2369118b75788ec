"""The cells of an evaluation: every model under every condition, each a file of outcomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dress import config
from dress.data.shards import Sample
from dress.evaluation.outcomes import Outcome, evaluate, load_outcomes, save_outcomes
from dress.feedback.collect import CkptResponder, Sampling
from dress.feedback.rater import Rater


def evaluate_cells(
    responders: Mapping[str, Callable[[], CkptResponder]],
    judge: Rater,
    samples: Sequence[Sample],
    settings: config.Eval,
    texts: Mapping[str, str],
    sampling: Sampling,
    folder: Path,
    progress: Callable[[int], None] = lambda n: None,
) -> list[Outcome]:
    """Evaluate, or read what an earlier call already finished.

    Args:
        responders: model name to how its responder is had; only called when a cell is missing.
        judge: rates the answers.
        samples: held-out records.
        settings: conditions and turns.
        texts: condition name to its text.
        sampling: greedy.
        folder: holds `<model>-<condition>.jsonl`.
        progress: called with the number of finished answers.
    """
    outcomes: list[Outcome] = []
    for model, make in responders.items():
        responder = None
        for condition in settings.conditions:
            file = folder / f"{model}-{condition}.jsonl"
            if not file.exists():
                responder = responder or make()
                later = texts[settings.refine_condition]
                cell = evaluate(
                    responder, judge, samples, model=model, condition=condition,
                    texts=[texts[condition], *[later] * (settings.turns - 1)], sampling=sampling, progress=progress,
                )  # fmt: skip
                save_outcomes(file, cell)
            outcomes += load_outcomes(file)
    return outcomes
