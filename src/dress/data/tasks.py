"""The tasks of `src/prepare.py`: the settings of each (configs/task/) and where its function is.

Light on purpose: a task's module is imported only when its settings are known to be good.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from dress.config import Positive, Section, check_as


class Task(Section):
    """What one call of `src/prepare.py` does."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class Import(Task):
    """A publisher's files become a folder of shards."""

    task: Literal["import"]
    source: str
    path: str
    out: str
    overwrite: bool = False


class Index(Task):
    """Anybody's webdataset shards are indexed, so that they can be read, mixed and resumed exactly."""

    task: Literal["index"]
    path: str
    format: Literal["auto", "records", "captions"] = "auto"
    ignore: tuple[str, ...] = ()


class Encoder(Section):
    """A frozen encoder by its OpenCLIP name."""

    name: str | None = None
    weights: str | None = None  # OpenCLIP tag or a local file; null = random
    layer: int = -1


class Features(Task):
    """What a frozen encoder makes of every image is written into new shards."""

    task: Literal["features"]
    path: str
    out: str
    encoder: str | None = None
    ckpt: str | None = None
    stage: str | None = None
    vision: Encoder = Encoder()
    seed: Annotated[int, Field(ge=0)] = 0
    stored: Literal["bf16", "int8", "fp32"] = "bf16"
    images: Literal["fast", "exact"] = "fast"
    batch_size: Positive = 32
    device: str | None = None
    on_damage: Literal["stop", "skip"] = "stop"

    @model_validator(mode="after")
    def _one_encoder(self) -> Features:
        given = [name for name in (self.encoder, self.ckpt, self.vision.name) if name is not None]
        if len(given) != 1:
            raise ValueError(
                f"expected exactly one of encoder=SCALE, ckpt=RUN and vision.name=NAME, got {given or 'none'}"
            )
        return self


TASKS: dict[str, tuple[type[Task], str]] = {
    "import": (Import, "dress.data.sources.task"),
    "index": (Index, "dress.data.index_task"),
    "features": (Features, "dress.data.features_task"),
}
"""Task name to its settings and to the module whose `run(settings, console)` does it."""


def task(composed: dict[str, Any]) -> tuple[Task, Callable[..., Any]]:
    """The checked settings of the composed task, and its function.

    Raises:
        ConfigError: a setting that does not exist or does not fit.
    """
    settings, module = TASKS[composed["task"]]
    checked = check_as(settings, composed)
    return checked, import_module(module).run
