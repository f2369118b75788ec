"""A search by Optuna's ask and tell over any launcher of Hydra, which goes on where it was stopped.

The folder of a sweep holds `study.journal` (Optuna's, an operation a line), `search.json` (the same for readers) and a
folder for each trial, whose name is the trial's number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from dress.base.errors import ConfigError, in_one_line
from dress.base.files import read_json, write_json
from dress.base.run_folder import SWEEP, lock, short, unlock
from dress.base.seeding import seed_for
from dress.base.terminal import Terminal
from dress.config.search import Search, check_search
from dress.run.objective import check_objective, unknown_figure
from dress.run.result_rows import flat_figures
from dress.run.resuming import WITH_RESUME
from dress.run.space import Space, parse_space

if TYPE_CHECKING:
    import optuna

SWEEPER = "hydra_plugins.dress_sweeper.OptunaSweeper"
JOURNAL, RECORD = "study.journal", "search.json"
COMPLETE, FAILED, STOPPED = "complete", "fail", "stopped"
"""States of a trial in `search.json`; a stopped one was asked again."""
AGAIN, BEGUN_WITH = "again", "begun with"
"""Notes in the study: of a trial, whose place it takes; of all, what the search is about."""


class Sweep(Protocol):
    """What a search needs of Hydra's sweeper."""

    config: DictConfig
    hydra_context: HydraContext

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration of a job."""
        ...

    def launch(self, jobs: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
        """Run jobs, each with its overrides, numbered from `first`."""
        ...


def is_trial() -> bool:
    """Whether this job of Hydra's is a trial of a search: its failure is a result."""
    return HydraConfig.initialized() and HydraConfig.get().sweeper.get("_target_") == SWEEPER


def search(sweeper: Mapping[str, Any], sweep: Sweep, arguments: Sequence[str]) -> None:
    """Search, or go on with the search in the sweep's folder.

    Args:
        sweeper: settings, see `dress.config.search.Search`.
        sweep: Hydra's sweeper.
        arguments: what was typed, as Hydra takes it.

    Raises:
        ConfigError: a setting, an objective that no run has, a folder with another search; or too many trials failed.
    """
    plain = {k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in sweeper.items()}
    settings = check_search(plain)
    if find_spec("optuna") is None:
        raise ConfigError('hydra/sweeper=dress: optuna is not installed; pip install -e ".[sweep]"')
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    loader: ConfigLoader = sweep.hydra_context.config_loader
    space = parse_space(settings.params, arguments, loader)
    _check(sweep, space)
    aside = optuna.create_study(sampler=_sampler(settings, 0))
    first = space.overrides(aside.ask(space.distributions).params)
    if any(text.lstrip("+").startswith("show=") for text in space.fixed):
        sweep.launch([first], 0)
        return
    check_objective(settings.objective, sweep.compose(first), first)
    folder = Path(str(sweep.config.hydra.sweep.dir)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    lock(folder)
    try:
        OmegaConf.save(sweep.config, folder / SWEEP)  # by which a run knows its sweep
        _Search(settings, space, folder, Terminal()).run(sweep)
    finally:
        unlock(folder)


def _check(sweep: Sweep, space: Space) -> None:
    """Refuse what would not be one run to a folder, with its figures in it."""
    if sweep.config.hydra.job.config_name != "train":
        raise ConfigError("hydra/sweeper=dress: expected src/train.py, whose runs have figures, got another command")
    named = next((text for text in space.fixed if text.lstrip("+").startswith(("run_dir=", "resume="))), None)
    if named is not None or "run_dir" in space.dimensions:
        raise ConfigError(f"{named or 'run_dir'}: in a search each run has its own folder: name that of all, sweep=DIR")
    subdir = OmegaConf.to_container(sweep.config.hydra.sweep, resolve=False)["subdir"]  # type: ignore[call-overload,index]  # a mapping
    if subdir != "${hydra.job.num}":
        raise ConfigError(f"hydra.sweep.subdir: expected ${{hydra.job.num}}, a trial's number, got {subdir}")


def _sampler(settings: Search, draw: int) -> optuna.samplers.BaseSampler:
    """What draws a trial: of its own seed, so that a search which was stopped draws what one that was not would."""
    from optuna import samplers

    seed = seed_for(settings.seed, "search", draw) % 2**32
    if settings.sampler == "random":
        return samplers.RandomSampler(seed=seed)
    kind = samplers.TPESampler if settings.sampler == "tpe" else samplers.GPSampler
    return kind(seed=seed, n_startup_trials=settings.startup_trials)


@dataclass
class _Search:
    """A study and the folder that it lies in."""

    settings: Search
    space: Space
    folder: Path
    console: Terminal

    @cached_property
    def study(self) -> optuna.Study:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        journal = self.folder / JOURNAL
        _without_half_a_line(journal)
        try:
            return optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(journal))),
                study_name="sweep",
                direction=self.settings.direction,
                load_if_exists=True,
            )
        except (ValueError, KeyError) as error:
            raise ConfigError(f"{short(journal)}: expected Optuna's journal, got {in_one_line(error)}") from None

    def run(self, sweep: Sweep) -> None:
        """Ask, launch, tell, until there are enough trials with a figure."""
        self._agree()
        self._ask_again()
        failed = 0
        while (left := self.settings.trials - len(self._finished())) > 0:
            number = min(left, self.settings.parallel) if self._finished() else 1  # the others take its stages over
            asked = [self._ask() for _ in range(number)]
            jobs = [self.space.overrides(trial.params) for trial in asked]
            self._write()
            for trial, job in zip(asked, sweep.launch(jobs, asked[0].number), strict=True):
                failed += not self._tell(trial.number, job)
            if failed > self.settings.failures:
                raise ConfigError(
                    f"{failed} trials ended without a figure, and hydra.sweeper.failures={self.settings.failures} may "
                    f"(above is why). The same command goes on; other settings begin another search (sweep=DIR)"
                )
        self._write()

    def _agree(self) -> None:
        """Refuse to go on with another search than the one in the folder."""
        now = {
            "objective": self.settings.objective,
            "params": {name: one.text for name, one in self.space.dimensions.items()},
            "settings": sorted(text for text in self.space.fixed if _counts(text)),
        }
        begun = self.study.user_attrs.get(BEGUN_WITH)
        wanted = self.settings.direction.upper()
        if self.study.direction.name != wanted:
            raise ConfigError(f"hydra.sweeper.direction={self.settings.direction}: {self._other()} the other one")
        if begun != now and begun is not None and self._finished():
            key = next(key for key in now if now[key] != begun.get(key))
            name = {"settings": "what was typed"}.get(key, f"hydra.sweeper.{key}")
            raise ConfigError(f"{name}: {self._other()} {begun.get(key)}, and now there is {now[key]}")
        self.known = begun == now
        if not self.known:
            self.study.set_user_attr(BEGUN_WITH, now)

    def _other(self) -> str:
        return f"{short(self.folder)} holds a search with other settings; name another folder (sweep=DIR). It has"

    def _ask_again(self) -> None:
        """Trials of a process that was killed: told where they had ended, else failed and asked again.

        Raises:
            ConfigError: a launcher's job outlived that process, and still runs.
        """
        from optuna.trial import TrialState

        for trial in self.study.get_trials(states=(TrialState.RUNNING,)):
            run = self.folder / str(trial.number)
            if run.is_dir():
                lock(run)  # refused where another process writes it
                unlock(run)
            value = self._value(trial.number)
            if value is not None:
                self.study.tell(trial.number, value)
                continue
            self.study.tell(trial.number, state=TrialState.FAIL)
            if self.known:  # else it may lie outside of what is searched
                self.study.enqueue_trial(trial.params, user_attrs={AGAIN: trial.number})

    def _ask(self) -> optuna.Trial:
        drawn = sum(AGAIN not in trial.user_attrs for trial in self.study.trials)
        self.study.sampler = _sampler(self.settings, drawn)
        return self.study.ask(self.space.distributions)

    def _finished(self) -> list[optuna.trial.FrozenTrial]:
        from optuna.trial import TrialState

        return self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))

    def _tell(self, number: int, job: JobReturn) -> bool:
        """Tell how a trial ended; whether it has a figure.

        Raises:
            ConfigError: the first run has figures, and the objective is none of them.
        """
        from optuna.trial import TrialState

        reason = _failure(job)
        value = None if reason else self._value(number)
        file = self.folder / str(number) / "metrics.json"
        if value is None and not reason and file.exists():
            reason = f"{short(file)} has no figure {self.settings.objective}"
            if not self._finished():
                figures = flat_figures(read_json(file, dict))
                raise ConfigError(f"{unknown_figure(self.settings.objective, list(figures))} ({short(file)})")
        self.study.tell(number, value, state=None if value is not None else TrialState.FAIL)
        self._write()
        if value is None:
            self.console.print(f"trial {number}: failed{f': {reason}' if reason else ''}", soft_wrap=True)
            return False
        best = self.study.best_trial
        self.console.print(
            f"trial {number}: {value:.4g} (best: {best.value:.4g}, trial {best.number}); "
            f"{len(self._finished())} of {self.settings.trials}",
            soft_wrap=True,
        )
        return True

    def _value(self, number: int) -> float | None:
        """The objective of a trial's run; None where it has none."""
        file = self.folder / str(number) / "metrics.json"
        value = flat_figures(read_json(file, dict)).get(str(self.settings.objective)) if file.exists() else None
        return value if value is not None and math.isfinite(value) else None

    def _write(self) -> None:
        """The study as plain data, for who reads it without Optuna."""
        trials = self.study.trials
        places = {trial.user_attrs[AGAIN]: trial.number for trial in trials if AGAIN in trial.user_attrs}
        write_json(
            self.folder / RECORD,
            {
                **self.settings.model_dump(exclude={"params", "trials"}),
                "params": {name: one.described() for name, one in self.space.dimensions.items()},
                "trials": [
                    {
                        "number": trial.number,
                        "state": STOPPED if trial.number in places else trial.state.name.lower(),
                        "value": trial.value,
                        "params": trial.params,
                    }
                    for trial in trials
                ],
            },
        )


def _counts(text: str) -> bool:
    """Whether an override of all jobs can change what they end with."""
    key = text.lstrip("+").partition("=")[0]
    return key not in (*WITH_RESUME, "reuse") and key.partition(".")[0] != "logger"


def _without_half_a_line(journal: Path) -> None:
    """Take away an operation that was being written when the machine stopped: Optuna would read no further."""
    if not journal.exists():
        return
    content = journal.read_bytes()
    if content and not content.endswith(b"\n"):
        with journal.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def _failure(job: JobReturn) -> str:
    """What a job said that could not end; empty where it ended, or has said so itself.

    Raises:
        Exception: a bug, which no other trial would be without.
    """
    try:
        _ = job.return_value
    except (ValueError, OSError, MemoryError) as error:
        return in_one_line(error) or type(error).__name__
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's
            raise
        return in_one_line(error)
    return ""
