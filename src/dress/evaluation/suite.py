"""Suites by name: a module registers its own with `@suite`; those of `dress.evaluation.suites` are found there.

Light on purpose: no suite's module loads what only models need before its settings are known to be good.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING
from pydantic import BaseModel
from rich.console import Console

from dress.config import ConfigError
from dress.evaluation import suites
from dress.evaluation.measures import Measure
from dress.evaluation.outcomes import Outcome
from dress.evaluation.settings import Asking, Judged, Measured, SuiteSettings

Json = dict[str, Any]
Outcomes = Sequence[Outcome]
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Suite:
    """Data, generation and metrics under one name.

    Args:
        name: as `suite=` says it.
        settings: typed settings, checked before `function` is called.
        function: of (settings, console): the outcomes; with `compute`, whatever its own figures need, and those.
        measures: the figures, or a function of the outcomes that gives them.
        more: keys of its own in every set of figures.
        mean_over: names of the categories whose mean the figures over all are; none: they are over all samples.
        compute: of a folder, where figures are no measures of the outcomes there: what `file` must hold.
        file: of the figures.
        pictures: of (settings, keys of records): the image files of these; None: they lie in the folder that the
            setting `images` names.
    """

    name: str
    settings: type[SuiteSettings]
    function: Callable[[Any, Console], Any]
    measures: Sequence[Measure] | Callable[[Outcomes], Sequence[Measure]] = ()
    more: Callable[[Outcomes], Json] = lambda outcomes: {}
    mean_over: Callable[[Outcomes], Sequence[str]] = lambda outcomes: ()
    compute: Callable[[Path], Json] | None = None
    file: str = "suite.json"
    pictures: Callable[[Any, Collection[str]], Mapping[str, bytes]] | None = None

    def measures_of(self, outcomes: Outcomes) -> Sequence[Measure]:
        """The figures that these outcomes have."""
        return self.measures(outcomes) if callable(self.measures) else self.measures


COMMON: dict[str, type[SuiteSettings]] = {"measured": Measured, "asking": Asking, "judged": Judged}
SUITES: dict[str, Suite] = {}
"""What has been registered so far."""


def suite(name: str, settings: type[SuiteSettings], **parts: Any) -> Callable[[Function], Function]:
    """Register a function as a suite.

    Args:
        name: as in `suite=NAME`.
        settings: its class of settings.
        parts: other fields of `Suite`.

    Raises:
        ValueError: another function has this name, or figures are measures and its settings no `Measured` ones.
    """

    def register(function: Function) -> Function:
        before = SUITES.get(name)
        if before is not None and before.function.__module__ != function.__module__:
            raise ValueError(f"suite={name}: registered by {before.function.__module__} and {function.__module__}")
        if not (parts.get("compute") or issubclass(settings, Measured)):
            raise ValueError(f"suite={name}: expected settings that take from Measured, got {settings.__name__}")
        SUITES[name] = Suite(name, settings, function, **parts)
        return function

    return register


def registered(module: str | None = None) -> Mapping[str, Suite]:
    """All suites of this package, and those of a module.

    Raises:
        ConfigError: there is no such module.
    """
    for info in pkgutil.iter_modules(suites.__path__, f"{suites.__name__}."):
        import_module(info.name)
    if module is not None:
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            if not f"{module}.".startswith(f"{error.name}."):
                raise
            raise ConfigError(
                f"suite_module={module}: expected a module that Python finds, found none. Install it, or say where "
                f"it is: PYTHONPATH=DIR"
            ) from None
    return SUITES


def chosen(composed: Json) -> Suite:
    """The suite that composed settings name.

    Raises:
        ConfigError: no such suite.
    """
    known, name = registered(composed.get("suite_module")), composed["suite"]
    if name not in known:
        raise ConfigError(
            f"suite={name}: expected one of {', '.join(known)}; where it is your own, name the module that registers "
            f"it: suite_module=PACKAGE.MODULE"
        )
    return known[name]


def store_defaults() -> None:
    """Let Hydra's files name the defaults of schemas: `suite/_NAME` of a suite of this package.

    Suites elsewhere begin with what they have in common: `suite/_measured`, `suite/_asking` and `suite/_judged`.
    """
    for name, settings in COMMON.items() | {(one.name, one.settings) for one in registered().values()}:
        fields = settings.model_fields.items()
        node = {field: MISSING if info.is_required() else info.get_default() for field, info in fields}
        node = {field: value.model_dump() if isinstance(value, BaseModel) else value for field, value in node.items()}
        if name not in COMMON:
            node["suite"] = name
        ConfigStore.instance().store(f"_{name}", node, "suite", "_global_", settings.__module__)
