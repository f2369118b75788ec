"""Training and evaluation from Python, one code with the scripts: `dress.train([...])`, `dress.evaluate(RUN)`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from dress.base.errors import ConfigError
from dress.base.run_folder import unlock
from dress.base.terminal import Terminal
from dress.run.command_line import COMMAND
from dress.run.composing import composed, plain
from dress.run.explaining import explain
from dress.run.overrides import argument, several_runs
from dress.run.resuming import resume_arguments, training_settings
from dress.run.secret_settings import refuse_secrets
from dress.run.showing import show_config
from dress.run.training import show_batch
from dress.run.training import train as train_run


@dataclass(frozen=True)
class TrainedRun:
    """A run folder and its figures; it stands wherever a run folder may.

    Attributes:
        folder: holds report.html, metrics.json and stages/.
        metrics: as in metrics.json.
    """

    folder: Path
    metrics: dict[str, Any] = field(repr=False)

    def __fspath__(self) -> str:
        return str(self.folder)


def train(overrides: Sequence[str] = (), quiet: bool = False) -> TrainedRun:
    """Train as `dress train OVERRIDES` does, and wait until it has ended.

    Args:
        overrides: as on the command line: `["experiment=sft_only", "seed=1", "resume=logs/latest"]`.
        quiet: print no progress and no tables.

    Returns:
        The run; with `show=…`, which prints and trains nothing, one without figures.

    Raises:
        ValueError: a setting, data or a checkpoint that does not fit, named; nothing is begun.
        KeyboardInterrupt: asked to stop; where it stands is saved, and `resume=` goes on from there.
    """
    typed = _settings(overrides)
    resume_arguments(typed)  # refuses what cannot stand beside it
    run_dir = [] if any(text.startswith("run_dir=") for text in typed) else [f"run_dir={_folder()}"]
    settings = training_settings(_composed("train", [*run_dir, *typed]), typed)
    folder, console = Path(settings.run_dir), Terminal(quiet=quiet)
    if settings.show == "config":
        show_config(settings, {})
    elif settings.show == "batch":
        show_batch(settings, console)
    elif settings.devices.processes > 1:
        raise ConfigError(
            f"trainer.devices={settings.trainer.devices}: from Python a run has one process; start this one in a "
            f"terminal: dress train …"
        )
    else:
        with _one_that_ends(folder):
            return TrainedRun(folder, train_run(settings, console, [COMMAND, "train", *typed]))
    return TrainedRun(folder, {})


def evaluate(
    run: str | os.PathLike[str] | None = None, overrides: Sequence[str] = (), quiet: bool = False
) -> dict[str, Any]:
    """Evaluate as `dress eval` does: a finished run again, or a suite.

    Args:
        run: a run folder: that of `ckpt`, or with a suite (`suite=pope`) the one that answers (`responder`); None
            where the overrides say all.
        overrides: as on the command line: `["records=100", "out=DIR"]`.
        quiet: print no progress and no tables.

    Returns:
        The figures, as in metrics.json (a run's) or suite.json.

    Raises:
        ValueError: a setting, file or checkpoint that does not fit, named.
        FileNotFoundError: no such run or file.
        KeyboardInterrupt: asked to stop.
    """
    from dress.evaluation.command import evaluate as evaluate_composed
    from dress.evaluation.suite import store_defaults

    typed = _settings(overrides)
    suite = next((text.partition("=")[2] for text in typed if text.startswith("suite=")), "run")
    first = [] if run is None else [argument("ckpt" if suite == "run" else "responder", os.fspath(run))]
    store_defaults()
    settings = _composed("eval", [*first, *typed])
    with _one_that_ends(Path(str(settings.get("out", ".")))):
        return evaluate_composed(settings, Terminal(quiet=quiet))


def _settings(overrides: Sequence[str]) -> list[str]:
    """The overrides; options of the command line are none."""
    if isinstance(overrides, str):
        raise ConfigError(f"expected a list of settings, got a text: [{overrides!r:.80}]")
    option = next((text for text in overrides if text.startswith("-")), None)
    if option is not None:
        raise ConfigError(f"{option}: expected key=value; for several runs call this once for each")
    if several := several_runs(overrides):
        raise ConfigError(f"{several}: expected settings of one run; start several in a terminal: dress train …")
    return list(overrides)


def _folder() -> str:
    """Where a run goes: as in configs/train.yaml, where only a running Hydra says it."""
    return f"{Path.cwd()}/logs/${{name}}/{time.strftime('%Y-%m-%d_%H-%M-%S')}"


def _composed(command: str, typed: list[str]) -> dict[str, Any]:
    """The composed settings of a command.

    Raises:
        ConfigError: they do not compose; one line.
    """
    try:
        settings = composed(command, typed)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, command, typed)) from None
    values = plain(settings)
    refuse_secrets(settings, values)
    return values


@contextmanager
def _one_that_ends(folder: Path) -> Iterator[None]:
    """Let a folder go when its work is done, and an interruption be one: Lightning makes an exit of it."""
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        unlock(folder)
