"""The figure that a search is about: one of those that the run will have, as loggers name them."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from dress import config
from dress.base.errors import ConfigError
from dress.config.graph import evaluated_stages
from dress.run.composing import plain
from dress.run.layers import layers, one_amount
from dress.run.resuming import refuse_several_devices, training_settings


def check_objective(objective: str | None, composed: DictConfig, overrides: Sequence[str]) -> None:
    """Refuse, before anything is made, an objective that no run of a search will have; and settings that do not fit.

    Args:
        objective: its name.
        composed: the configuration of the first job.
        overrides: of that job.

    Raises:
        ConfigError: names what there will be.
    """
    settings = _settings(composed, overrides)
    if settings is None:
        return
    names = figure_names(settings)
    if not names:
        raise ConfigError(
            f"hydra.sweeper.objective={objective}: the run evaluates no model; curriculum.run=[eval] does"
        )
    open_ended = tuple(f"final/{label}/reference/" for label in evaluated_stages(settings.curriculum))
    if objective is None or (objective not in names and not objective.startswith(open_ended)):
        raise ConfigError(unknown_figure(objective, names))


def unknown_figure(objective: str | None, names: Sequence[str]) -> str:
    """Says so, with the nearest of the figures that there are, and all of them."""
    close = config.nearest(objective or "", list(names))
    return (
        f"hydra.sweeper.objective: expected a figure of the run, got {objective or 'none'}.{close} "
        f"There are: {', '.join(names)}"
    )


def figure_names(settings: config.Config) -> list[str]:
    """The figures that a run with these settings can have, but for those of single criteria against references."""
    from dress.evaluation import image_use, references
    from dress.evaluation.suites.run import figures

    names: list[str] = []
    for label in evaluated_stages(settings.curriculum):
        for key, figure in figures([]).items():
            turns = [f"/turn_{turn}" for turn in range(settings.eval.turns)] if isinstance(figure, list) else [""]
            names += [f"final/{label}/{key}{turn}" for turn in turns]
        names += [f"final/{label}/{measure.key}" for measure in (*image_use.MEASURES, *references.MEASURES)]
    return names


def _settings(composed: DictConfig, overrides: Sequence[str]) -> config.Config | None:
    """The checked settings of a job that does not run yet; None where only the running one can resolve them."""
    hydra = list(composed.hydra.overrides.hydra)
    values = OmegaConf.to_container(composed, resolve=False)
    assert isinstance(values, dict)
    del values["hydra"]
    open_settings = OmegaConf.create(values | {"run_dir": "unused"})
    one_amount(open_settings, lambda: layers("train", overrides, hydra))
    try:
        resolved = plain(open_settings)
    except ConfigError:
        return None
    settings = training_settings(resolved, overrides)
    refuse_several_devices(settings)
    return settings
