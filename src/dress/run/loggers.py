"""Where metrics go: CSV (default), Weights & Biases, TensorBoard.

Whatever the logger, everything also lies in the run folder as plain files; nothing here is needed
to read a run. Secrets are known by the name of an environment variable only and never written.
"""

from __future__ import annotations

import csv
import importlib.util
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from dress import config
from dress.base.files import write_text
from dress.base.ranks import rank, wait_for
from dress.base.redaction import redacted
from dress.config.targets import LOGGER, TARGET, build, check_target
from dress.phases.conditions import headline
from dress.run import board
from dress.run.result_rows import (
    LoggedTable,
    Samples,
    figures_table,
    flat_figures,
    ratings_table,
    sample_table,
)

if TYPE_CHECKING:
    import wandb

    from dress.data.shards import Sample
    from dress.evaluation.outcomes import Outcome

LAST_STEP = "wandb_step.txt"
"""Beside the id: the last step that was logged."""
PROJECT, API_KEY_ENV = "dress", "WANDB_API_KEY"
"""Where nothing else is set."""
MODEL_FILES = ("model.safetensors", "model.json", "tokenizer.json")
X_AXIS = "curriculum/step"
"""What all curves are drawn over: optimizer steps since the first stage began."""

CONSOLES = ("auto", "off", "wrap", "redirect", "wrap_raw", "wrap_emu")
"""How wandb listens to what is printed."""

_runs: dict[str, wandb.Run] = {}
"""Open Weights & Biases runs by run folder: one for all stages of a curriculum."""


class RunLoggers:
    """The loggers of a run, as the curriculum asks for them.

    Args:
        settings: of the run.
    """

    def __init__(self, settings: config.Config) -> None:
        self.settings = settings

    def begin(self, settings: config.Config) -> None:
        """See `Loggers.begin`."""
        self.settings = settings

    def of_stage(self, stage: str, resumed: bool, step: int) -> list[Logger]:
        """See `build_loggers`."""
        return build_loggers(self.settings, stage, resumed, step)

    def results(self, metrics: Mapping[str, Any], outcomes: Sequence[Outcome], samples: Sequence[Sample]) -> None:
        """See `log_results`."""
        log_results(self.settings, metrics, outcomes, samples)


def build_loggers(settings: config.Config, stage: str, resumed: bool, step: int = 0) -> list[Logger]:
    """The loggers of one stage; none, one or several.

    CSV has a file for each stage, TensorBoard and Weights & Biases one run for all. What a stage logged after the
    step where it goes on is logged again: CSV and TensorBoard forget it, Weights & Biases keeps it and drops the new
    one, so that each point stands once.

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
        if issubclass(factory, WandbLogger):
            if (console := spec.get("console", "auto")) not in CONSOLES:
                raise ValueError(f"logger.{name}.console: expected {', '.join(CONSOLES)}, got {console!r}")
            if not isinstance(spec.get("log_model", False), bool):
                raise ValueError(f"logger.{name}.log_model: expected true or false, got {spec['log_model']!r}")


def _build(settings: config.Config, name: str, stage: str, resumed: bool, step: int) -> Logger:
    """One logger; where its files lie and what they are called is passed to those that ask and are not told."""
    spec, key, folder = settings.logger[name], f"logger.{name}", Path(settings.run_dir)
    factory = check_target(spec, key, LOGGER)
    if issubclass(factory, WandbLogger):
        return WandbStage(settings, name)
    if issubclass(factory, TensorBoardLogger):
        _need_tensorboard()
        if rank() == 0:
            board.note_settings(folder / name, settings)
        later = {"purge_step": step + 1, "default_hp_metric": False}
        return build({**later, **spec}, key, LOGGER, save_dir=str(folder), name=name, version="")
    if issubclass(factory, CSVLogger):
        rows = csv_rows(folder / name / stage / "metrics.csv", step if resumed else -1) if rank() == 0 else []
        often = {"flush_logs_every_n_steps": 1, **spec}
        logger: Logger = build(often, key, LOGGER, save_dir=str(folder), name=name, version=stage)
        for row in rows:
            logger.log_metrics(row, int(row.pop("step")))
        return logger
    version = _version(folder / name, stage) if resumed else stage
    return build(spec, key, LOGGER, save_dir=str(folder), name=name, version=version)


def csv_rows(file: Path, last: int) -> list[dict[str, float]]:
    """The points up to a step of a file that is about to be written anew; takes the file away."""
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8") as text:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(text)]
    file.unlink()  # Lightning would delete it with a warning
    return [row for row in rows if row.get(X_AXIS, row["step"]) <= last]


def _of_kind(settings: config.Config, kind: type[Logger]) -> str | None:
    """The name of the first logger of a class; None without one."""
    for name, spec in settings.logger.items():
        if issubclass(check_target(spec, f"logger.{name}", LOGGER), kind):
            return name
    return None


def _version(folder: Path, stage: str) -> str:
    """A name that no part of the stage before has: `sft-resumed`, then `sft-resumed-2` …"""
    names = (f"{stage}-resumed{f'-{n}' if n > 1 else ''}" for n in count(1))
    return next(name for name in names if not (folder / name).exists())


def log_results(
    settings: config.Config,
    metrics: Mapping[str, Any],
    outcomes: Sequence[Outcome],
    samples: Sequence[Sample],
) -> None:
    """The end of a curriculum: figures, tables, and sample images with their answers.

    CSV logs nothing here: `metrics.json`, `outcomes.jsonl` and the report are in the run folder.

    Args:
        settings: of the run.
        metrics: as in `metrics.json`.
        outcomes: every judged answer.
        samples: the evaluated records with image bytes, in order; the first ones are shown.
    """
    wandb_name, tensorboard = _of_kind(settings, WandbLogger), _of_kind(settings, TensorBoardLogger)
    if rank() > 0 or not (wandb_name or tensorboard):
        return
    stages = [settings.curriculum.stages[name] for name in settings.curriculum.order]
    end = sum(stage.total_steps for stage in stages if isinstance(stage, config.TrainStage))
    tables = {
        "tables/figures": figures_table(metrics),
        "tables/ratings": ratings_table(Path(settings.run_dir)),
    }
    pictures = sample_table(outcomes, samples, headline(settings.curriculum))
    if wandb_name:
        _results_to_wandb(settings, wandb_name, {X_AXIS: float(end), **flat_figures(metrics)}, tables, pictures)
    if tensorboard:
        _need_tensorboard()
        board.write_results(Path(settings.run_dir) / tensorboard, end, flat_figures(metrics), tables, pictures)


def finish(exit_code: int) -> None:
    """Close what is open, so that a sweep's runs stay apart and a crash is shown as one."""
    while _runs:
        folder, run = _runs.popitem()
        run.finish(exit_code=exit_code)
        if os.environ.get("WANDB_DATA_DIR") == _data_dir(folder):
            del os.environ["WANDB_DATA_DIR"]


# --- Weights & Biases -----------------------------------------------------------------------------


class WandbStage(Logger):
    """One stage's view of the curriculum's one wandb run."""

    def __init__(self, settings: config.Config, key: str) -> None:
        super().__init__()
        self.settings, self.key = settings, key

    @property
    def name(self) -> str:
        return str(self.settings.logger[self.key].get("project", PROJECT))

    @property
    def version(self) -> str:
        return wandb_id(Path(self.settings.run_dir))

    @property
    def save_dir(self) -> str:
        return self.settings.run_dir

    @property
    @rank_zero_experiment
    def experiment(self) -> wandb.Run:
        return open_run(self.settings, self.key)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        last, now = Path(self.settings.run_dir) / LAST_STEP, metrics.get(X_AXIS)
        if now is not None:
            if last.exists() and now <= float(last.read_text(encoding="utf-8") or -1):
                return  # logged before the run was stopped: nothing can be taken out there
            last.write_text(f"{now:g}", encoding="utf-8")
        self.experiment.log(metrics)  # wandb's own step would start anew with every stage

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The configuration is given when the run opens."""


def open_run(settings: config.Config, key: str) -> wandb.Run:
    """The wandb run of a curriculum: the open one, or one with the id kept in the run folder.

    Offline unless the variable named by `api_key_env` is set (or WANDB_MODE says otherwise).
    A resumed run has the same id; offline parts of it are joined by `wandb sync`.

    Args:
        settings: of the run.
        key: name of the logger in `logger`; its arguments go to `wandb.init`.

    Raises:
        ValueError: `wandb.init` takes no such argument.
    """
    if settings.run_dir in _runs:
        return _runs[settings.run_dir]
    import wandb

    folder = Path(settings.run_dir)
    arguments = {name: value for name, value in settings.logger[key].items() if name != TARGET}
    secret = os.environ.get(str(arguments.pop("api_key_env", API_KEY_ENV)))
    console: Any = arguments.pop("console", "auto")  # looked at by `check`
    arguments.pop("log_model", None)
    mode = os.environ.get("WANDB_MODE") or ("online" if secret else "offline")
    if mode == "online":
        wandb.login(key=secret)
    # Pictures of tables wait here for their upload; else in the home folder, apart from their run.
    os.environ.setdefault("WANDB_DATA_DIR", _data_dir(settings.run_dir))
    typed = sys.argv
    sys.argv = redacted(typed)  # wandb keeps them
    try:
        run = wandb.init(
            **{
                "project": PROJECT,
                "name": f"{settings.name}-{settings.seed}",
                "group": group_of(folder),
                "job_type": settings.name,
                "tags": [settings.scale],
                **arguments,
            },
            id=wandb_id(folder),
            resume="allow",
            mode=mode,  # type: ignore[arg-type]  # checked by the schema
            dir=str(folder),
            config=redacted(settings.model_dump()),
            settings=wandb.Settings(console=console, save_code=False, silent=True),
        )
    finally:
        sys.argv = typed
    run.define_metric(X_AXIS)
    run.define_metric("*", step_metric=X_AXIS)
    _runs[settings.run_dir] = run
    return run


def _data_dir(run_dir: str) -> str:
    return str(Path(run_dir).absolute() / "wandb" / "data")


def wandb_id(folder: Path) -> str:
    """The run's id, the same for every stage, every process and after every resume; the first process draws it."""
    file = folder / "wandb_id.txt"
    if rank() > 0:
        wait_for(file)
    elif not file.exists():
        write_text(file, secrets.token_hex(4))
    return file.read_text(encoding="utf-8").strip()


def group_of(folder: Path) -> str | None:
    """The sweep a run belongs to: Hydra keeps `multirun.yaml` above its jobs."""
    return folder.parent.name if (folder.parent / "multirun.yaml").exists() else None


# --- results --------------------------------------------------------------------------------------


def _results_to_wandb(
    settings: config.Config,
    key: str,
    flat: dict[str, float],
    tables: dict[str, LoggedTable],
    pictures: Samples,
) -> None:
    import wandb

    run = open_run(settings, key)
    rows = []
    for row in pictures.rows:
        picture = row.picture()
        rows.append([None if picture is None else wandb.Image(picture), *row.values])
    logged = {
        name: wandb.Table(list(table.columns), [list(row) for row in table.rows]) for name, table in tables.items()
    }
    logged["tables/samples"] = wandb.Table(["image", *pictures.columns], rows)
    run.log({**flat, **logged})
    trained = settings.curriculum.train_stages()
    if settings.logger[key].get("log_model") and trained:
        model = wandb.Artifact(f"{run.id}-{trained[-1]}", type="model", description=f"stage {trained[-1]}")
        for name in MODEL_FILES:
            model.add_file(str(Path(settings.run_dir) / "stages" / trained[-1] / name), policy="immutable")
        run.log_artifact(model)


def _need_tensorboard() -> None:
    if importlib.util.find_spec("tensorboard") is None:
        raise ValueError('logger=tensorboard: not installed; pip install -e ".[tensorboard]"')
