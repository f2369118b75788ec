"""The cells of an evaluation: every model under every condition, each a file of outcomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dress import config
from dress.data.shards import Sample
from dress.evaluation.outcomes import Outcome, evaluate, load_outcomes, save_outcomes
from dress.feedback.rater import Rater
from dress.feedback.responders import Responder, Sampling


def evaluate_cells(
    responders: Mapping[str, Callable[[], Responder]],
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
    later = [texts[settings.refine_condition]] * (settings.turns - 1)
    for model, make in responders.items():
        files: dict[str, Path] = {condition: folder / f"{model}-{condition}.jsonl" for condition in settings.conditions}
        missing = {condition: [texts[condition], *later] for condition, file in files.items() if not file.exists()}
        if missing:
            found = evaluate(
                make(), judge, samples, model=model, texts=missing, sampling=sampling, progress=progress,
            )  # fmt: skip
            for condition in missing:
                save_outcomes(files[condition], [o for o in found if o.condition == condition])
        for file in files.values():
            outcomes += load_outcomes(file)
    return outcomes
