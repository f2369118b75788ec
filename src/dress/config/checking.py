"""Checking a composed configuration: one line per problem, with the nearest valid key."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from dress.base.errors import ConfigError
from dress.base.redaction import hide
from dress.config.export import ExportStage
from dress.config.foreign import foreign
from dress.config.learning import ADAMW, COSINE
from dress.config.migration import LOGGERS, renamed
from dress.config.model import LINEAR, ComposedModel
from dress.config.names import AMOUNTS
from dress.config.nearest import nearest
from dress.config.run import Config
from dress.config.stages import CollectStage, EvalStage, TrainStage
from dress.config.targets import CALLBACK, LOGGER, OPTIMIZER, PROJECTOR, SCHEDULER, TARGET, TRAINER, Kind, check_target

Checked = TypeVar("Checked", bound=BaseModel)


def check(composed: dict[str, Any]) -> Config:
    """Validate the composed and resolved configuration of a training run; see `check_as`."""
    return check_as(Config, composed)


def check_as(model: type[Checked], composed: dict[str, Any]) -> Checked:
    """Validate a composed and resolved configuration.

    Raises:
        ConfigError: with one line per problem: key, expected, got, and the nearest valid key.
    """
    try:
        return model.model_validate(hide(composed))
    except ValidationError as error:
        lines = [_problem(problem, model) for problem in error.errors(include_url=False)]
        raise ConfigError("the configuration does not fit:\n  " + "\n  ".join(lines)) from None


def check_targets(settings: Config) -> None:
    """Check the classes that a configuration names, and the arguments of Lightning's Trainer, by their signatures.

    Those of the defaults are not looked at, so that nothing heavy is imported for them.

    Raises:
        ConfigError: no such class, not of the kind that is needed, or an argument that it does not take.
    """
    model = settings.model
    projector = [("model.projector", model.projector, PROJECTOR)] if isinstance(model, ComposedModel) else []
    places: list[tuple[str, dict[str, Any], Kind]] = [
        ("optimizer", settings.optimizer, OPTIMIZER),
        ("scheduler", settings.scheduler, SCHEDULER),
        *projector,
        *((f"callbacks.{name}", spec, CALLBACK) for name, spec in settings.callbacks.items()),
        *((f"logger.{name}", spec, LOGGER) for name, spec in settings.logger.items()),
    ]
    more = settings.trainer.more()
    if more:
        places.append(("trainer", {TARGET: "lightning.Trainer", **more}, TRAINER))
    usual = {
        "optimizer": ADAMW, "scheduler": COSINE, "model.projector": LINEAR, "logger.csv": {TARGET: LOGGERS["csv"]},
    }  # fmt: skip
    try:
        for key, spec, kind in places:
            if spec != usual.get(key):
                check_target(spec, key, kind)
    except ValueError as error:
        raise ConfigError(renamed(str(error).partition(":")[0]) or str(error)) from None


def valid_keys(section: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """Every dotted key of the configuration whose name is fixed."""
    keys = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        kind = field.annotation
        for inner in (kind, *getattr(kind, "__args__", ())):
            inner = get_args(inner)[0] if get_origin(inner) is Annotated else inner
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                keys += valid_keys(inner, f"{prefix}{name}.")
    return keys


def _problem(problem: Any, model: type[BaseModel]) -> str:
    place = [str(part) for part in problem["loc"]]
    if place[:2] == ["curriculum", "stages"] and len(place) > 3:
        del place[3]  # the kind by which pydantic chose the stage's model
    if place[:1] in (["annotator"], ["attacker"], ["judge"]) and len(place) > 1:
        del place[1]  # the same for a rater
    if place[:1] == ["model"] and place[1:2] in (["composed"], ["hf"]):
        del place[1]  # the same for the model
    key = ".".join(place)
    message = str(problem["msg"]).removeprefix("Value error, ")
    if place[-1:] == ["[key]"]:
        return _unknown_key(place, problem)
    if problem["type"] == "extra_forbidden":
        if other := renamed(key) or foreign(key):
            return other
        keys = _keys_around(place, model)
        if key in keys:
            if place[:2] == ["curriculum", "stages"] and place[-1] in AMOUNTS:
                return f"{key}: only a train stage has {place[-1]}; set {'.'.join(place[:-1])}.records"
            return f"{key}: a setting of another kind than the one that is chosen there"
        return f"{key}: no such setting.{nearest(key, keys)}"
    if key.endswith("api_key_env"):  # what stands there may be the key itself: never print it
        return f"{key}: expected the NAME of an environment variable, e.g. WANDB_API_KEY, not the key"
    if key.endswith(("base_url", "responder")):  # the same
        return f"{key}: {message}"
    if problem["type"].endswith("_type") and (other := foreign(key)):  # logger.tags=[a] is no logger
        return other
    if isinstance(problem["input"], dict):  # a check of a whole section names what it got, and often the key
        if key and message.startswith(f"{key}."):
            return message
        return f"{key}: {message}" if key else message
    return f"{key}: {message} (got {problem['input']!r:.80})"


def _unknown_key(place: list[str], problem: Any) -> str:
    """A key of a mapping that is none of those there may be."""
    *above, name, _ = place
    return f"{'.'.join(above)}: {problem['msg']} (got {name!r:.80})"


def unknown_in_stages(key: str, stages: list[str], phases: list[str]) -> str | None:
    """What a key like `curriculum.stages.sft.phases.myphase` names that does not exist; None where it is another key.

    Args:
        key: dotted.
        stages: that exist.
        phases: that exist.
    """
    match = re.match(r"curriculum\.stages\.([^.]+)(?:\.phases\.([^.]+))?", key)
    if match is None:
        return None
    stage, phase = match.groups()
    if stage not in stages:
        return (
            f"curriculum.stages.{stage}: no such stage. There are: {', '.join(stages)}.{nearest(stage, stages)} "
            f"A new one: +curriculum.stages.{stage}={{like: …}}"
        )
    if phase is None:
        return None
    return (
        f"{key}: not among this stage's phases; give all of them: curriculum.stages.{stage}.phases={{{phase}: 1.0}}."
        f"{nearest(phase, phases)}"
    )


def _keys_around(place: list[str], model: type[BaseModel]) -> list[str]:
    if place[:2] == ["curriculum", "stages"] and len(place) == 4:
        names = {n for stage in (TrainStage, CollectStage, EvalStage, ExportStage) for n in stage.model_fields} | {
            "like"
        }
        return [".".join([*place[:3], name]) for name in sorted(names)]
    return valid_keys(model)
