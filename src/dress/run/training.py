"""A training run from checked settings: what `src/train.py` does, and what a notebook can call."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from dress import config
from dress.base import run_log
from dress.base.files import read_json
from dress.base.run_folder import short
from dress.run.start import claimed, finished


def train(settings: config.Config, console: Console, command: Sequence[str] | None = None) -> dict[str, Any]:
    """Run all stages, or go on with the run that `settings.resume` names; prints the table of its figures.

    Args:
        settings: of the run.
        console: what people are told.
        command: what repeats it, word by word; None for what was typed.

    Returns:
        The metrics, as in `metrics.json`; nothing on processes after the first.

    Raises:
        Interrupted: asked to stop; where it stands is saved.
        ValueError: data, checkpoint or setting that does not fit, named.
    """
    folder = Path(settings.run_dir)
    with run_log.RunLog(console, folder) as log:
        if settings.resume is not None and finished(folder, settings):
            console.print(f"{short(folder)} is finished; this is what it reached:", highlight=False)
            metrics: dict[str, Any] = read_json(folder / "metrics.json", dict, "Delete it, and resume again")
        else:
            with claimed(settings, command) as begin:
                metrics = _run_stages(settings, console, log, begin)
        _print_results(console, folder, metrics)
    return metrics


def show_batch(settings: config.Config, console: Console) -> None:
    """Print one batch of a train stage as it is learned; see `Curriculum.show_batch`."""
    from dress.train.curriculum import Curriculum

    Curriculum(settings, console).show_batch()


def _run_stages(
    settings: config.Config,
    console: Console,
    log: run_log.RunLog,
    begin: Callable[[config.Config, Mapping[str, Any]], None],
) -> dict[str, Any]:
    from dress.run import loggers
    from dress.train.curriculum import Curriculum

    def begun(settings: config.Config, facts: Mapping[str, Any]) -> None:
        begin(settings, facts)
        log.begin()

    _silence_lightning()
    code = 1
    try:
        loggers.check(settings)
        metrics = Curriculum(settings, console, loggers.RunLoggers(settings)).run(begun)
        code = 0
    finally:
        loggers.finish(code)  # they learn how it ended
    return metrics


def _silence_lightning() -> None:
    """No word of Lightning's about what every run of ours does on purpose."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*in eval mode at the start")  # the vision tower is, on purpose
    warnings.filterwarnings("ignore", message=".*LeafSpec")  # its own code, deprecated by torch


def _print_results(console: Console, folder: Path, metrics: dict[str, Any]) -> None:
    """The table, and where everything lies."""
    from dress.report.figures import metrics_table

    table = metrics_table(metrics)
    if table.rows or len(metrics) < 2:
        console.print(table)
    else:
        console.print("Nothing could be measured: no reference, and no answer that the judge rates.", highlight=False)
    report = folder / "report.html"
    if report.exists():
        console.print(f"report: {short(report)}", highlight=False, soft_wrap=True)
    console.print(f"run:    {short(folder)}", highlight=False, soft_wrap=True)
