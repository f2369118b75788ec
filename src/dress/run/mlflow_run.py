"""The one MLflow run of a curriculum: all stages, all resumptions, results and the report."""

from __future__ import annotations

import csv
import importlib.util
import io
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment

from dress import config
from dress.base.files import write_text
from dress.base.ranks import rank, wait_for
from dress.base.redaction import redacted, reveal
from dress.config.targets import LOGGER, build
from dress.run.layers import leaves
from dress.run.only_warned import only_warned
from dress.run.result_rows import LoggedTable
from dress.run.run_results import ROUND, RunResults
from dress.run.stage_logger import StageLogger
from dress.run.sweep_job import group_of

ID, LAST_STEP = "mlflow_id.txt", "mlflow_step.txt"
"""In the run folder: the run's id, and the last step that was logged."""
EXPERIMENT = "dress"
"""Where nothing else is set."""

_runs: dict[str, MLFlowLogger] = {}
"""Open runs by run folder: one for all stages of a curriculum."""


class MlflowStage(StageLogger):
    """One stage's view of the curriculum's one MLflow run."""

    def __init__(self, settings: config.Config, key: str) -> None:
        super().__init__(settings, key, LAST_STEP)

    @property
    def name(self) -> str:
        return str(self.settings.logger[self.key].get("experiment_name", EXPERIMENT))

    @property
    def version(self) -> str:
        file = Path(self.settings.run_dir) / ID
        if rank() > 0:
            wait_for(file)
        else:
            open_run(self.settings, self.key)
        return file.read_text(encoding="utf-8").strip()

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        return open_run(self.settings, self.key).experiment

    def log_point(self, metrics: dict[str, float], step: int | None) -> None:
        """A server that is away for a moment costs no more than the point."""
        with only_warned(f"logger.{self.key}: a point of step {step}"):
            open_run(self.settings, self.key).log_metrics(metrics, step)


def need_mlflow(key: str) -> None:
    """Refuse a logger whose package is not there.

    Args:
        key: of its setting.

    Raises:
        ValueError: MLflow is not installed; says what to type.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise ValueError(f'{key}: MLflow is not installed; pip install -e ".[mlflow]"')


def open_run(settings: config.Config, key: str) -> MLFlowLogger:
    """The MLflow run of a curriculum: the open one, or the one whose id is kept in the run folder.

    Without `tracking_uri`, here or in MLFLOW_TRACKING_URI, it lies in the run folder: `mlflow.db`, `mlflow-artifacts/`.

    Args:
        settings: of the run.
        key: name of the logger in `logger`.

    Raises:
        ValueError: the logger refuses its arguments, or MLflow has no place to write to; names the setting.
    """
    if settings.run_dir in _runs:
        return _runs[settings.run_dir]
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # on unless it is told
    from mlflow.exceptions import MlflowException

    for name, level in (("mlflow", logging.WARNING), ("lightning.pytorch.loggers.mlflow", logging.ERROR)):
        logging.getLogger(name).setLevel(level)  # that a database and an experiment are made is no news
    spec, file = settings.logger[key], Path(settings.run_dir) / ID
    resumed = file.exists() and not spec.get("run_id")
    arguments = {**_defaults(settings, spec), **_revealed(spec)}
    if resumed:
        arguments["run_id"] = file.read_text(encoding="utf-8").strip()
    try:
        logger: MLFlowLogger = build(arguments, f"logger.{key}", LOGGER)
        run_id = str(logger.run_id)
        if resumed:
            logger.experiment.update_run(run_id, status="RUNNING")
        else:
            write_text(file, run_id)
            logger.log_hyperparams(dict(leaves(redacted(settings.model_dump()))))
    except MlflowException as error:
        raise ValueError(redacted(f"logger.{key}: MLflow: {' '.join(str(error).split())[:300]}")) from None
    _runs[settings.run_dir] = logger
    return logger


def log_results(settings: config.Config, key: str, results: RunResults) -> None:
    """The end of a curriculum: figures, rounds, tables, pictures, and the report as artifacts.

    Args:
        settings: of the run.
        key: name of the logger.
        results: of the run.
    """
    logger = open_run(settings, key)
    client, run_id = logger.experiment, str(logger.run_id)
    with only_warned(f"logger.{key}: the figures"):
        logger.log_metrics(results.figures, results.step)
        for row in (*results.collected, *results.rounds):
            logger.log_metrics({name: value for name, value in row.items() if name != ROUND}, int(row[ROUND]))
    for file in results.files:
        client.log_artifact(run_id, str(file))
    samples = LoggedTable(results.samples.columns, [row.values for row in results.samples.rows])
    for name, table in {**results.tables, "tables/samples": samples}.items():
        client.log_text(run_id, _csv(table), f"{name}.csv")
    for number, sample in enumerate(results.samples.rows):
        if (picture := sample.picture()) is not None:
            client.log_image(run_id, picture, f"samples/{number}.png")


def finish(exit_code: int) -> None:
    """Let open runs know how they ended."""
    while _runs:
        _, logger = _runs.popitem()
        with only_warned("mlflow: the end of the run"):
            logger.experiment.set_terminated(logger.run_id, "FINISHED" if exit_code == 0 else "FAILED")


def _defaults(settings: config.Config, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments where nothing is set."""
    folder = Path(settings.run_dir).absolute()
    tags = {"experiment": settings.name, "scale": settings.scale, "sweep": group_of(folder)}
    given: dict[str, Any] = {
        "experiment_name": EXPERIMENT, "run_name": f"{settings.name}-{settings.seed}",
        "tags": {name: value for name, value in tags.items() if value},
    }  # fmt: skip
    if "tracking_uri" in spec:
        return given
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return given | {"tracking_uri": uri}
    place = (folder / "mlflow-artifacts").as_uri()
    return given | {"tracking_uri": f"sqlite:///{folder / 'mlflow.db'}", "artifact_location": place}


def _revealed(spec: dict[str, Any]) -> dict[str, Any]:
    """Arguments with the address as it was typed, its password in place."""
    uri = spec.get("tracking_uri")
    return {**spec, "tracking_uri": reveal(uri)} if isinstance(uri, str) else spec


def _csv(table: LoggedTable) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([table.columns, *table.rows])
    return text.getvalue()
