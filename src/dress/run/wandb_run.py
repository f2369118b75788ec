"""The one Weights & Biases run of a curriculum: all stages, all resumptions, results, and what was made of what."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers.logger import rank_zero_experiment

from dress import config
from dress.base.files import write_text
from dress.base.ranks import rank, wait_for
from dress.base.redaction import redacted
from dress.config.targets import TARGET, WANDB_MORE
from dress.run.dashboard import save_workspace
from dress.run.only_warned import only_warned
from dress.run.panels import X_AXIS, logged_names
from dress.run.result_rows import Samples
from dress.run.run_results import ROUND, RunResults, collected_round
from dress.run.stage_logger import StageLogger
from dress.run.sweep_job import group_of
from dress.run.wandb_artifacts import RunArtifacts
from dress.train.tasks import Task

if TYPE_CHECKING:
    import wandb

ID, LAST_STEP, STAGES = "wandb_id.txt", "wandb_step.txt", "wandb_stages.txt"
"""In the run folder: the run's id; the last step that was logged; stages whose end was."""
PROJECT, API_KEY_ENV = "dress", "WANDB_API_KEY"
"""Where nothing else is set."""

_runs: dict[str, wandb.Run] = {}
"""Open runs by run folder: one for all stages of a curriculum."""


class WandbStage(StageLogger):
    """One stage's view of the curriculum's one wandb run."""

    def __init__(self, settings: config.Config, key: str) -> None:
        super().__init__(settings, key, LAST_STEP)

    @property
    def name(self) -> str:
        return str(self.settings.logger[self.key].get("project", PROJECT))

    @property
    def version(self) -> str:
        return wandb_id(Path(self.settings.run_dir))

    @property
    @rank_zero_experiment
    def experiment(self) -> wandb.Run:
        return open_run(self.settings, self.key)

    def log_point(self, metrics: dict[str, float], step: int | None) -> None:
        """Without the step: wandb's own would start anew with every stage."""
        self.experiment.log(metrics)


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
    console: Any = arguments.pop("console", "auto")  # looked at by `loggers.check`
    for name in WANDB_MORE:
        arguments.pop(name, None)
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


def finish(exit_code: int) -> None:
    """Close what is open, so that a sweep's runs stay apart and a crash is shown as one."""
    while _runs:
        folder, run = _runs.popitem()
        run.finish(exit_code=exit_code)
        if os.environ.get("WANDB_DATA_DIR") == _data_dir(folder):
            del os.environ["WANDB_DATA_DIR"]


def stage_done(settings: config.Config, key: str, task: Task, stage_folder: Path) -> None:
    """Log what a stage has read and made, and how its collected answers were rated; once, however often it is asked.

    Args:
        settings: of the run.
        key: name of the logger.
        task: what the stage received.
        stage_folder: what it made.
    """
    file = Path(settings.run_dir) / STAGES
    done = file.read_text(encoding="utf-8").split() if file.exists() else []
    if task.name in done:
        return
    run = open_run(settings, key)
    artifacts = RunArtifacts(run, settings, key)
    with only_warned(f"logger.{key}: the artifacts of stage {task.name}"):
        artifacts.stage(task, stage_folder)
    with only_warned(f"logger.{key}: the ratings of stage {task.name}"):
        _log_round(run, collected_round(settings, task.name))
    write_text(file, "\n".join([*done, task.name]))


def log_results(settings: config.Config, key: str, results: RunResults) -> None:
    """The end of a curriculum: figures, rounds, tables, pictures, the report; and a workspace that shows them.

    Args:
        settings: of the run.
        key: name of the logger.
        results: of the run.
    """
    import wandb

    run = open_run(settings, key)
    for row in results.rounds:
        _log_round(run, row)
    tables = {
        name: wandb.Table(list(table.columns), [list(row) for row in table.rows])
        for name, table in results.tables.items()
    }
    shown = _pictures(results.samples)
    media = {name: value for name, value in (("samples", shown), ("report", _page(results))) if value}
    run.log({X_AXIS: float(results.step), **results.figures, **tables, **media, "tables/samples": _table(results)})
    with only_warned(f"logger.{key}: the artifact of the report"):
        RunArtifacts(run, settings, key).report(results)
    with only_warned(f"logger.{key}: the workspace"):
        names = logged_names(settings, results)
        save_workspace(run, settings, [*names, *tables, *media, "tables/samples"])


def wandb_id(folder: Path) -> str:
    """The run's id, the same for every stage, every process and after every resume; the first process draws it."""
    file = folder / ID
    if rank() > 0:
        wait_for(file)
    elif not file.exists():
        write_text(file, secrets.token_hex(4))
    return file.read_text(encoding="utf-8").strip()


def _data_dir(run_dir: str) -> str:
    return str(Path(run_dir).absolute() / "wandb" / "data")


def _log_round(run: wandb.Run, row: Mapping[str, float]) -> None:
    """A point over rounds instead of steps."""
    if row:
        for name in row:  # each by its name: wandb's `*` stands for all others
            run.define_metric(name, step_metric=None if name == ROUND else ROUND)
        run.log(dict(row))


def _table(results: RunResults) -> wandb.Table:
    """Samples with their pictures."""
    import wandb

    rows = [[_image(row.picture()), *row.values] for row in results.samples.rows]
    return wandb.Table(["image", *results.samples.columns], rows)


def _pictures(samples: Samples) -> list[wandb.Image]:
    """The pictures of the samples under what was said of them."""
    captions = (
        "\n".join(f"{name}: {value}" for name, value in zip(samples.columns, row.values, strict=True) if value)
        for row in samples.rows
    )
    pictures = ((row.picture(), caption) for row, caption in zip(samples.rows, captions, strict=True))
    return [_image(picture, caption) for picture, caption in pictures if picture is not None]


def _image(picture: Any, caption: str | None = None) -> Any:
    import wandb

    return None if picture is None else wandb.Image(picture, caption=caption)


def _page(results: RunResults) -> wandb.Html | None:
    import wandb

    file = results.folder / "report.html"
    return wandb.Html(str(file), inject=False) if file.exists() else None
