"""Where metrics go: CSV (default), Weights & Biases, TensorBoard, MLflow, and any other logger of Lightning's.

Whatever the logger, everything also lies in the run folder as plain files; nothing here is needed
to read a run. Secrets are known by the name of an environment variable only and never written.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from dress import config
from dress.base.ranks import rank
from dress.config.targets import LOGGER, WANDB_SENDS, build, check_target
from dress.run import board, csv_files, mlflow_run, wandb_run
from dress.run.only_warned import only_warned
from dress.run.run_results import ROUND, RunResults, run_results
from dress.train.tasks import Task

if TYPE_CHECKING:
    from dress.data.shards import Sample
    from dress.evaluation.outcomes import Outcome

CONSOLES = ("auto", "off", "wrap", "redirect", "wrap_raw", "wrap_emu")
"""How wandb listens to what is printed."""
END = "results"
"""Names the files of loggers that write some, at the end of a run."""


class RunLoggers:
    """The loggers of a run, as the curriculum asks for them.

    Args:
        settings: of the run.
    """

    def __init__(self, settings: config.Config) -> None:
        self.settings = settings

    def begin(self, settings: config.Config) -> None:
        """See `Loggers.begin`; a server of MLflow's that cannot be reached is named now, not after the first steps."""
        self.settings = settings
        for name in _names(settings, MLFlowLogger) if rank() == 0 else ():
            mlflow_run.open_run(settings, name)

    def of_stage(self, stage: str, resumed: bool, step: int) -> list[Logger]:
        """See `build_loggers`."""
        return build_loggers(self.settings, stage, resumed, step)

    def stage_done(self, task: Task, folder: Path) -> None:
        """See `Loggers.stage_done`; Weights & Biases has artifacts of it."""
        for name in _names(self.settings, WandbLogger) if rank() == 0 else ():
            with only_warned(f"logger.{name}: the end of stage {task.name}"):
                wandb_run.stage_done(self.settings, name, task, folder)

    def results(self, metrics: Mapping[str, Any], outcomes: Sequence[Outcome], samples: Sequence[Sample]) -> None:
        """See `log_results`."""
        log_results(self.settings, metrics, outcomes, samples)


def build_loggers(settings: config.Config, stage: str, resumed: bool, step: int = 0) -> list[Logger]:
    """The loggers of one stage; none, one or several.

    CSV has a file for each stage, TensorBoard, MLflow and Weights & Biases one run for all. What a stage logged after
    the step where it goes on is logged again: CSV and TensorBoard forget it, MLflow and Weights & Biases keep it and
    drop the new one, so that each point stands once.

    Args:
        settings: `logger` says which, `run_dir` where their files lie.
        stage: names the files of the loggers that write any.
        resumed: goes on inside a stage, so that points of the first part are kept.
        step: `curriculum/step` after which it goes on or begins.

    Raises:
        ValueError: no logger of Lightning, arguments that it refuses, or what it needs is not installed.
    """
    return [_build(settings, name, stage, resumed, step) for name in settings.logger]


def check(settings: config.Config) -> None:
    """See before a run begins what would stop its loggers.

    Raises:
        ValueError: as `build_loggers`.
    """
    for name, spec in settings.logger.items():
        factory = check_target(spec, f"logger.{name}", LOGGER)
        if issubclass(factory, TensorBoardLogger):
            _need_tensorboard()
        if issubclass(factory, MLFlowLogger):
            mlflow_run.need_mlflow(f"logger.{name}")
        if issubclass(factory, WandbLogger):
            if (console := spec.get("console", "auto")) not in CONSOLES:
                raise ValueError(f"logger.{name}.console: expected {', '.join(CONSOLES)}, got {console!r}")
            for sends in WANDB_SENDS:
                if not isinstance(spec.get(sends, False), bool):
                    raise ValueError(f"logger.{name}.{sends}: expected true or false, got {spec[sends]!r}")


def log_results(
    settings: config.Config,
    metrics: Mapping[str, Any],
    outcomes: Sequence[Outcome],
    samples: Sequence[Sample],
) -> None:
    """The end of a curriculum: figures, rounds, tables, and sample images with their answers.

    A logger that fails now ends nothing: `metrics.json`, `outcomes.jsonl` and the report are in the run folder.

    Args:
        settings: of the run.
        metrics: as in `metrics.json`.
        outcomes: every judged answer.
        samples: the evaluated records with image bytes, in order; the first ones are shown.
    """
    if rank() > 0 or not settings.logger:
        return
    results = run_results(settings, metrics, outcomes, samples)
    for name in settings.logger:
        with only_warned(f"logger.{name}: the results"):
            _log_results(settings, name, results)


def finish(exit_code: int) -> None:
    """Close what is open, so that a sweep's runs stay apart and a crash is shown as one."""
    mlflow_run.finish(exit_code)
    wandb_run.finish(exit_code)


def _build(settings: config.Config, name: str, stage: str, resumed: bool, step: int) -> Logger:
    """One logger; where its files lie and what they are called is passed to those that ask and are not told."""
    spec, key, folder = settings.logger[name], f"logger.{name}", Path(settings.run_dir)
    factory = check_target(spec, key, LOGGER)
    if issubclass(factory, WandbLogger):
        return wandb_run.WandbStage(settings, name)
    if issubclass(factory, MLFlowLogger):
        mlflow_run.need_mlflow(key)
        return mlflow_run.MlflowStage(settings, name)
    if issubclass(factory, TensorBoardLogger):
        _need_tensorboard()
        if rank() == 0:
            board.note_settings(folder / name, settings)
        later = {"purge_step": step + 1, "default_hp_metric": False}
        return build({**later, **spec}, key, LOGGER, save_dir=str(folder), name=name, version="")
    if issubclass(factory, CSVLogger):
        file = folder / name / stage / "metrics.csv"
        rows = csv_files.points(file, step if resumed else -1) if rank() == 0 else []
        often = {"flush_logs_every_n_steps": 1, **spec}
        logger: Logger = build(often, key, LOGGER, save_dir=str(folder), name=name, version=stage)
        for row in rows:
            logger.log_metrics(row, int(row.pop("step")))
        return logger
    version = _version(folder / name, stage) if resumed else stage
    return build(spec, key, LOGGER, save_dir=str(folder), name=name, version=version)


def _log_results(settings: config.Config, name: str, results: RunResults) -> None:
    """The end of a run to one logger."""
    folder = Path(settings.run_dir) / name
    factory = check_target(settings.logger[name], f"logger.{name}", LOGGER)
    if issubclass(factory, WandbLogger):
        wandb_run.log_results(settings, name, results)
    elif issubclass(factory, MLFlowLogger):
        mlflow_run.log_results(settings, name, results)
    elif issubclass(factory, TensorBoardLogger):
        _need_tensorboard()
        board.write_results(folder, settings, results)
    elif issubclass(factory, CSVLogger):
        csv_files.write_results(folder, results)
    else:
        logger = _build(settings, name, END, END in settings.curriculum.stages, results.step)
        logger.log_metrics(results.figures, results.step)
        for row in (*results.collected, *results.rounds):
            logger.log_metrics(row, int(row[ROUND]))
        logger.finalize("success")


def _names(settings: config.Config, kind: type[Logger]) -> list[str]:
    """The loggers of a class."""
    return [
        name for name, spec in settings.logger.items()
        if issubclass(check_target(spec, f"logger.{name}", LOGGER), kind)
    ]  # fmt: skip


def _version(folder: Path, stage: str) -> str:
    """A name that no part of the stage before has: `sft-resumed`, then `sft-resumed-2` …"""
    names = (f"{stage}-resumed{f'-{n}' if n > 1 else ''}" for n in count(1))
    return next(name for name in names if not (folder / name).exists())


def _need_tensorboard() -> None:
    if importlib.util.find_spec("tensorboard") is None:
        raise ValueError('logger=tensorboard: not installed; pip install -e ".[tensorboard]"')
