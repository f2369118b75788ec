"""Evaluate: a finished run again, `python src/eval.py ckpt=logs/latest`, or a suite, `python src/eval.py suite=…`."""

import dress  # first: sets how CPU threads wait  # noqa: F401, I001

from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from dress.run.command_line import entry_point
from dress.config import Devices, EvalCommand, check_as
from dress.config.consent import read_run
from dress.evaluation.suites.settings import suite
from dress.base.files import write_json
from dress.base.terminal import Terminal


def evaluate_run(settings: EvalCommand, console: Console) -> Path:
    """Evaluate `settings.ckpt`; returns the folder with outcomes.jsonl, metrics.json and report.html.

    Raises:
        FileNotFoundError: no run folder, or a stage of it holds no model.
        ValueError: a model that does not load, or records that the judge cannot judge.
    """
    from dress.base.progress import CurriculumProgress
    from dress.base.run_folder import lock
    from dress.config.graph import evaluated_stages
    from dress.data.pixels import resize_note
    from dress.data.stream import open_split
    from dress.evaluation.cells import evaluate_cells
    from dress.evaluation.metrics import metrics
    from dress.evaluation.outcomes import save_outcomes
    from dress.evaluation.report import write_report
    from dress.feedback.collect import CkptResponder, Sampling
    from dress.feedback.rater import build_rater
    from dress.model.checkpoint import load_model, read_facts
    from dress.phases.conditions import headline
    from dress.report.tables import metrics_table
    from dress.worlds.prepared import prepared

    run, out = Path(settings.ckpt), Path(settings.out)
    if not (run / "config.json").exists():
        raise FileNotFoundError(f"ckpt={run}: expected a run folder with config.json, found none")
    trained = read_run(run, settings)
    stages = evaluated_stages(trained.curriculum)
    texts = {label: read_facts(run / "stages" / stage, "conditions")["conditions"] for label, stage in stages.items()}
    with CurriculumProgress(console, {}) as progress:
        folder = prepared(trained.data, lambda n: progress.start("shapes world", n), progress.advance)
        shards = open_split(settings.shards or trained.data.eval, "." if settings.shards else folder, trained.data)
        samples = list(shards.readable(range(min(settings.records or len(shards), len(shards)))))
        dialogues = sum(len(record.dialogues) for record, _ in samples)
        progress.start("eval", dialogues * settings.turns * len(settings.conditions) * len(stages))

        preprocessing: dict[str, Any] = {}

        def responder(stage: str) -> CkptResponder:
            model, _ = load_model(run / "stages" / stage, consent=settings)
            preprocessing.update(model.vision.preprocessing)  # the same in all stages
            return CkptResponder(model, f"{trained.name}/{stage}", settings.keep_cache, trained.data.max_aspect)

        sampling = Sampling(settings.max_new_tokens or trained.generation.max_new_tokens, settings.batch_size)
        out.mkdir(parents=True, exist_ok=True)
        lock(out)
        for old in out.glob("*-*.jsonl"):
            old.unlink()
        outcomes = evaluate_cells(
            {model: partial(responder, stage) for model, stage in stages.items()},
            build_rater(settings.judge, out, console), samples, settings, texts, sampling, out,
            Devices(), progress.advance,
        )  # fmt: skip
        progress.end()
    save_outcomes(out / "outcomes.jsonl", outcomes)
    result = metrics(outcomes, headline(trained.curriculum))
    write_json(out / "metrics.json", result)
    write_json(out / "run.json", {"name": f"{trained.name}, evaluated again", "seed": trained.seed})
    note = resize_note((image for _, image in samples if image is not None), preprocessing, trained.data.max_aspect)
    report = write_report(out, samples, trained.eval.scenes, [] if note is None else [note])
    console.print(metrics_table(result))
    console.print(f"report: {report}", highlight=False)
    return out


def evaluate(composed: dict[str, Any], console: Console) -> None:
    """What the composed `suite` says."""
    if composed["suite"] == "run":
        evaluate_run(check_as(EvalCommand, composed), console)
    else:
        settings, run = suite(composed)
        run(settings, console)


@entry_point("eval")
def main(composed: dict[str, Any]) -> None:
    evaluate(composed, Terminal())


if __name__ == "__main__":
    main()
