"""Train: `python src/train.py experiment=dress_full`. `--help` shows what else there is."""

import dress  # first: sets how CPU threads wait  # noqa: F401, I001

import logging
import warnings
from pathlib import Path
from typing import Any

from rich.console import Console

from dress import config
from dress.run import command_line
from dress.run.resuming import training_settings
from dress.run.showing import show_config
from dress.run.start import finished, start_run
from dress.base.ranks import rank
from dress.base.run_folder import short
from dress.base.files import read_json
from dress.base.terminal import Terminal


@command_line.entry_point("train")
def main(composed: dict[str, Any]) -> None:
    """Run the stages of the composed experiment, or go on with a run."""
    settings = training_settings(composed)
    if settings.show == "config":
        show_config(settings)
        return
    console = Terminal(quiet=rank() > 0)
    folder = Path(settings.run_dir)
    if settings.resume is not None and finished(folder, settings):
        console.print(f"{short(folder)} is finished; this is what it reached:", highlight=False)
        tell(console, folder, read_json(folder / "metrics.json", dict, "Delete it, and resume again"))
        return
    if settings.show == "batch":
        from dress.train.curriculum import Curriculum

        Curriculum(settings, console).show_batch()
        return
    start_run(settings)
    tell(console, folder, run(settings, console))


def run(settings: config.Config, console: Console) -> dict[str, Any]:
    """All stages; returns the metrics. The loggers learn how it ended."""
    from dress.run import loggers
    from dress.train.curriculum import Curriculum

    quiet()
    code = 1
    try:
        metrics = Curriculum(settings, console, loggers.RunLoggers(settings)).run()
        code = 0
    finally:
        loggers.finish(code)
    return metrics


def quiet() -> None:
    """No word of Lightning's about what every run of ours does on purpose."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*in eval mode at the start")  # the vision tower is, on purpose
    warnings.filterwarnings("ignore", message=".*LeafSpec")  # its own code, deprecated by torch


def tell(console: Console, folder: Path, metrics: dict[str, Any]) -> None:
    """The table, and where everything lies."""
    from dress.report.figures import metrics_table

    console.print(metrics_table(metrics))
    report = folder / "report.html"
    if report.exists():
        console.print(f"report: {short(report)}", highlight=False, soft_wrap=True)
    console.print(f"run:    {short(folder)}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
