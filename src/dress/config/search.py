"""Settings of a search: `hydra.sweeper` where `hydra/sweeper=dress` is chosen."""

from __future__ import annotations

from typing import Any, Literal

from dress.config.checking import check_as
from dress.config.types import Count, Positive, Section


class Search(Section):
    """How Optuna searches; the defaults stand in configs/hydra/sweeper/dress.yaml."""

    objective: str | None  # a figure of the run, as loggers name it
    direction: Literal["maximize", "minimize"]  # of the objective
    trials: Positive  # runs that end with a figure
    parallel: Positive  # runs at a time
    sampler: Literal["tpe", "gp", "random"]  # Optuna's
    startup_trials: Count  # drawn at random before the sampler learns
    failures: Count  # runs that may end without a figure, each time the search is started
    seed: Count  # of the draws
    params: dict[str, str | int | float | bool]  # setting: its range, in Hydra's words


class _Hydra(Section):
    sweeper: Search


class _Composed(Section):
    hydra: _Hydra


def check_search(sweeper: dict[str, Any]) -> Search:
    """Checked settings of `hydra.sweeper`.

    Raises:
        ConfigError: a setting that does not exist or does not fit.
    """
    return check_as(_Composed, {"hydra": {"sweeper": sweeper}}).hydra.sweeper
