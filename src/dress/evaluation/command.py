"""What `src/eval.py` does: the suite that is named, with checked settings."""

from __future__ import annotations

from rich.console import Console

from dress.config import check_as
from dress.evaluation.output import finish
from dress.evaluation.settings import Measured, SuiteSettings
from dress.evaluation.suite import Json, Suite, chosen


def evaluate(composed: Json, console: Console) -> Json:
    """Do what the composed `suite` says; returns its figures.

    Raises:
        ConfigError: no such suite, or a setting that does not exist or does not fit.
    """
    suite = chosen(composed)
    return perform(suite, check_as(suite.settings, composed), console)


def perform(suite: Suite, settings: SuiteSettings, console: Console) -> Json:
    """Evaluate with checked settings: outcomes, and the figures that follow from them, in `settings.out`."""
    outcomes = suite.function(settings, console)
    if suite.compute:
        return outcomes
    assert isinstance(settings, Measured), "as it was registered"
    return finish(suite, outcomes, settings, console)
