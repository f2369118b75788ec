"""What `src/export.py` does, to be called from a notebook too: a run's model becomes a folder for others."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from dress.base.progress import CurriculumProgress
from dress.base.terminal import Terminal
from dress.config import Config, ExportCommand
from dress.config.consent import read_run
from dress.config.graph import evaluation, last_trained
from dress.config.names import check_name
from dress.config.stages import EvalStage
from dress.data.shards import Sample
from dress.data.stream import open_split
from dress.exports.model_folder import TrainedModel, check_form, export_model, read_metrics
from dress.exports.proof import Figures
from dress.exports.writing import check_place
from dress.model.checkpoint import load_model, read_facts
from dress.phases.conditions import own_condition
from dress.phases.registry import load_phases
from dress.worlds.prepared import prepared


def export(settings: ExportCommand, console: Console | None = None) -> Figures | None:
    """Write the model of a run's stage into `settings.out`.

    Args:
        settings: the command's; from Python, `ExportCommand(run="logs/latest", out="models/mine")`.
        console: for progress and messages; None takes the terminal.

    Returns:
        How equal the folder is to what was trained; None where only parts could be written.

    Raises:
        FileNotFoundError: no run, its stage holds no model, or its data are gone.
        ValueError: the base is gone or has changed, `out` holds something, or what was written gives something else.
    """
    console = console or Terminal()
    folder, out = Path(settings.run), Path(settings.out)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"run={folder}: expected a run folder with config.json, found none")
    run = read_run(folder, settings)
    check_place(out)
    load_phases(run.phases.modules)
    stage = settings.stage or last_trained(run.curriculum)
    check_name("stage", stage, run.curriculum.train_stages(), "one of the stages that train ({})")
    check_form(settings, run, stage)
    place = folder / "stages" / stage
    facts = read_facts(place, "conditions")
    with CurriculumProgress(console, {}) as progress:
        samples = _samples(settings, run, progress)
    with console.status("loading the model"):
        model, _ = load_model(place, "cpu", settings, exact=True)
    trained = TrainedModel(
        run, stage, model.eval(), facts["conditions"], own_condition(run.curriculum, stage), read_metrics(folder)
    )
    figures = export_model(trained, settings, samples, out, console)
    if figures is None:
        return None
    rounded = "" if settings.dtype == "float32" else f" before the weights were rounded to {settings.dtype}"
    console.print(
        f"{out}: {figures.ids} of {figures.examples} prompts and {figures.answers} of {figures.examples} answers are "
        f"those of the run; logits differ by at most {figures.logits:.1e}{rounded}. Its card: {out / 'README.md'}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    return figures


def _samples(settings: ExportCommand, run: Config, progress: CurriculumProgress) -> list[Sample]:
    """The first records of the split that the run evaluates on."""
    stage = run.curriculum.stages.get(evaluation(run.curriculum) or "")
    split = stage.data if isinstance(stage, EvalStage) else "eval"
    root = prepared(run.data, lambda n: progress.start("shapes world", n), progress.advance)
    shards = open_split(getattr(run.data, split), root, run.data)
    return list(shards.readable(range(min(settings.compared, len(shards)))))
