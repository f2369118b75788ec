"""What `src/eval.py` does: the suite that is named, with checked settings."""

from __future__ import annotations

from rich.console import Console

from dress.config import ConfigError, check_as
from dress.evaluation.output import finish
from dress.evaluation.settings import SuiteSettings
from dress.evaluation.suite import Json, Suite, registered


def evaluate(composed: Json, console: Console) -> Json:
    """Do what the composed `suite` says; returns its figures.

    Raises:
        ConfigError: no such suite, or a setting that does not exist or does not fit.
    """
    known, name = registered(composed.get("suite_module")), composed["suite"]
    if name not in known:
        raise ConfigError(
            f"suite={name}: expected one of {', '.join(known)}; where it is your own, name the module that registers "
            f"it: suite_module=PACKAGE.MODULE"
        )
    return perform(known[name], check_as(known[name].settings, composed), console)


def perform(chosen: Suite, settings: SuiteSettings, console: Console) -> Json:
    """Evaluate with checked settings: outcomes, and the figures that follow from them, in `settings.out`."""
    outcomes = chosen.function(settings, console)
    return outcomes if chosen.compute else finish(chosen, outcomes, settings, console)
