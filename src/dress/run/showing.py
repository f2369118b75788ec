"""`show=config`: every setting of a run, and where its value comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from dress import config
from dress.run.layers import TYPED, layers_of_the_job

DEFAULT = "default"
_STAGES, _LIKE = "curriculum.stages.", ".like"
_WIDTH = 60


def show_config(settings: config.Config, places: Mapping[str, str]) -> None:
    """Print the settings as YAML, ready to be kept as a file; a comment says where a value comes from.

    Args:
        settings: of the run.
        places: see `origins`.
    """
    if settings.resume is not None:
        places = {key: place for key, place in places.items() if place == TYPED}
    rest = DEFAULT if settings.resume is None else f"{settings.resume}/config.json"
    values, following = settings.model_dump(), {}
    for name, stage in settings.curriculum.stages.items():
        if isinstance(stage, config.TrainStage) and stage.epochs is not None:
            values["curriculum"]["stages"][name]["steps"] = None  # one amount, so that it can be kept as a file
            steps = "" if stage.steps is None else f"{stage.steps}, "
            following[f"curriculum.stages.{name}.steps"] = f"{steps}as its epochs and records have it"
    for line, key in _lines(values):
        place = following.get(key) or (_place(key, places, rest) if key else "")
        print(f"{line:<{_WIDTH}}  # {place}" if place else line)


def origins() -> dict[str, str]:
    """Dotted key of every value that a file or the command line gives, to the last that gives it.

    What a stage has from another one, by `like`, is where that one has it from.
    """
    values = {key: (place, value) for place, values in layers_of_the_job() for key, value in values.items()}
    places = {key: place for key, (place, _) in values.items()}
    likes = {key.removesuffix(_LIKE): str(value) for key, (_, value) in values.items() if key.endswith(_LIKE)}

    def inherit(stage: str, above: tuple[str, ...]) -> None:
        other = _STAGES + likes[stage]
        if other in above:
            return  # a circle; the check of the settings says so
        if other in likes:
            inherit(other, (*above, other))
        for key in [key for key in places if key.startswith(f"{other}.") and not key.endswith(_LIKE)]:
            place = places[key].partition(", like ")[0]
            places.setdefault(stage + key.removeprefix(other), f"{place}, like {likes[stage]}")

    for stage in likes:
        inherit(stage, (stage,))
    return places


def _flow(value: Any) -> bool | None:
    """How YAML shows a value: lists in brackets."""
    return None if isinstance(value, list | dict) and value else False


def _place(key: str, places: Mapping[str, str], rest: str) -> str:
    """Where a value comes from: its own key, or a mapping above it that was given as one."""
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        if place := places.get(".".join(parts[:length])):
            return place
    if parts[0] in ("annotator", "judge") and f"{parts[0]}.kind" in places:
        return f"{places[f'{parts[0]}.kind']}, {DEFAULT}"
    return rest


def _lines(values: dict[str, Any], prefix: str = "", indent: str = "") -> Iterator[tuple[str, str]]:
    """YAML lines, and the key of the value that each shows; none for the line above a section."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value:
            yield f"{indent}{name}:", ""
            yield from _lines(value, f"{key}.", f"{indent}  ")
        else:
            text = yaml.safe_dump(
                {name: value}, default_flow_style=_flow(value), allow_unicode=True, width=10**6
            ).strip()
            yield f"{indent}{text}", key
