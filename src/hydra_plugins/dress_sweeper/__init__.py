"""Hydra's sweeper of `hydra/sweeper=dress`: Optuna asks, any launcher of Hydra runs, the run's figures answer.

Hydra takes sweepers from the package `hydra_plugins` only, and imports this file in every program that uses Hydra: what
it does lies in `dress.run.search`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OptunaSweeper(Sweeper):
    """Searches with Optuna.

    Args:
        settings: see `dress.config.search.Search`.
    """

    launcher: Launcher
    hydra_context: HydraContext
    config: DictConfig

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        from dress.run.search import search

        search(self.settings, self, arguments)

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration of a job."""
        return self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))

    def launch(self, jobs: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
        """Run jobs, each with its overrides, numbered from `first`."""
        self.validate_batch_is_legal(jobs)
        return self.launcher.launch(jobs, initial_job_idx=first)
