"""The phases by name: DRESS's own, and those of a user's modules (`phases.modules`)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dress import config
from dress.config.nearest import nearest
from dress.dialogue.spans import SupervisedDialogue
from dress.record import Record

LANGUAGE = ("lm", "words")
"""Objectives that look at each token by itself."""
Function = Callable[[Record, config.Phases], list[SupervisedDialogue]]


@dataclass(frozen=True)
class Phase:
    """What a phase makes of a record, and what the stages need to know of it.

    Args:
        function: record and settings to supervised dialogues; none where the record lacks what the phase needs.
        settings: the `phases` settings that it reads, which its stage's result depends on; None for all.
        feedback: it learns from feedback, so its stage's model is meant to be asked under praise.
        conditioned: it teaches what a condition means.
        objectives: what its answers can be learned by.
    """

    function: Function
    settings: tuple[str, ...] | None = None
    feedback: bool = False
    conditioned: bool = False
    objectives: tuple[str, ...] = LANGUAGE

    def __call__(self, record: Record, settings: config.Phases) -> list[SupervisedDialogue]:
        """SupervisedDialogue dialogues of a record."""
        return self.function(record, settings)


PHASES: dict[str, Phase] = {}
"""By name, in the order in which they were registered."""


def phase(
    name: str, settings: tuple[str, ...] | None = None, feedback: bool = False, conditioned: bool = False,
    objectives: tuple[str, ...] = LANGUAGE,
) -> Callable[[Function], Function]:  # fmt: skip
    """Register a function from a record to supervised dialogues as a phase; for the arguments see `Phase`.

    Raises:
        ValueError: another function has this name.
    """

    def register(function: Function) -> Function:
        other = PHASES.get(name)
        if other is not None and _place(other.function) != _place(function):
            raise ValueError(f"phase {name!r}: expected a new name, got that of {_place(other.function)}")
        PHASES[name] = Phase(function, settings, feedback, conditioned, objectives)
        return function

    return register


def find_phase(name: str, modules: Sequence[str]) -> Phase:
    """The phase of this name; `modules` are imported only where it is not known yet.

    Raises:
        ValueError: no such phase, or a module that cannot be imported; names those that exist.
    """
    if name not in PHASES:
        load_phases(modules)
    if name not in PHASES:
        raise ValueError(no_such_phase(name))
    return PHASES[name]


def used_settings(settings: config.Phases, names: Iterable[str]) -> config.Phases:
    """The settings that some phases read; all others are empty, so that they cannot count.

    Args:
        settings: of all phases.
        names: of the phases; one that does not say what it reads reads all.

    Raises:
        ValueError: no such phase.
    """
    everything = tuple(config.Phases.model_fields)
    read = {"modules"}
    for name in names:
        own = find_phase(name, settings.modules).settings
        read |= set(everything if own is None else own)
    empty = config.Phases(align=config.Align(prompt=""), critique_template="", rating_template="", praise="")
    return settings.model_copy(update={field: getattr(empty, field) for field in everything if field not in read})


def load_phases(modules: Sequence[str]) -> None:
    """Import a user's modules, which register their phases; modules in the working directory are found too.

    Raises:
        ValueError: there is no such module.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ValueError(
                f"phases.modules: no module {error.name!r} for {module}. Install it, or start from its folder"
            ) from None


def check_phases(stages: Mapping[str, config.Stage], settings: config.Phases) -> None:
    """Import the user's modules, and refuse a stage that trains a phase which does not exist, or by another objective.

    Raises:
        ConfigError: names the module, or stage, phase, and those that exist.
    """
    try:
        load_phases(settings.modules)
    except ValueError as error:
        raise config.ConfigError(str(error)) from None
    for name, stage in stages.items():
        for key, objective in stage.objectives.items() if isinstance(stage, config.TrainStage) else ():
            try:
                possible = find_phase(key, settings.modules).objectives
            except ValueError as error:
                raise config.ConfigError(f"curriculum.stages.{name}.phases: {error}") from None
            if objective not in possible:
                raise config.ConfigError(
                    f"curriculum.stages.{name}.objective: expected one of {', '.join(possible)} for phase {key}, "
                    f"got {objective}"
                )


def no_such_phase(name: str) -> str:
    """A message that names the phases that exist."""
    names = list(PHASES)
    return (
        f"no such phase {name!r}. There are: {', '.join(names)}.{nearest(name, names)} One of your own stands in a "
        f"module that phases.modules names"
    )


def _place(function: Function) -> str:
    return f"{function.__module__}.{function.__qualname__}"
