"""The composed configuration of a training run."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from dress.config.data import Data
from dress.config.generation import Generation
from dress.config.learning import (
    ADAMW,
    COSINE,
    Callbacks,
    Devices,
    Learning,
    Optimizer,
    Parallel,
    Scheduler,
    Trainer,
    Training,
)
from dress.config.model import ComposedModel, Model
from dress.config.objectives import Objectives
from dress.config.phases import Phases
from dress.config.raters import RaterSettings
from dress.config.stages import SPLITS, Curriculum, TrainStage
from dress.config.targets import Target
from dress.config.types import (
    VARIABLE,
    Condition,
    Count,
    Name,
    Package,
    Part,
    Positive,
    Section,
    without_nulls,
)

VERSION: Literal[2] = 2
"""Of config.json; runs of DRESS 0.1 have none."""


class Eval(Section):
    """What every eval stage asks."""

    turns: Positive = 3  # answers per dialogue: 0, 1, 2
    # First answers stand after:
    conditions: Annotated[list[Condition], Field(min_length=1)] = Field(default=["none", "praise"])
    refine_condition: Condition = "none"  # from the second answer on
    scenes: Positive = 12  # in the report
    failures: Count = 120  # questions whose answers fell short, in the report
    blank_images: Count = 100  # records whose answers are scored without image, too


def _key_names(loggers: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Refuse a key where the name of its variable is expected, without repeating it."""
    for name, spec in loggers.items():
        if "api_key_env" in spec and not re.fullmatch(VARIABLE, str(spec["api_key_env"])):
            raise ValueError(
                f"{name}.api_key_env: expected the NAME of an environment variable, e.g. WANDB_API_KEY, not the key"
            )
    return loggers


Loggers = Annotated[dict[Name, Target], BeforeValidator(without_nulls), AfterValidator(_key_names)]
"""Where curves and results go; any number of places."""


def with_raters(composed: Any, raters: tuple[str, ...]) -> Any:
    """Settings in which every rater of kind `auto` is the oracle of the world that made the data, or rules without one.

    Args:
        composed: settings with `data`.
        raters: names of the settings that are raters.
    """
    if not isinstance(composed, dict):
        return composed
    data = composed.get("data")
    world = data.get("world") if isinstance(data, dict) else None
    kind = "rules" if world is None else "oracle"
    sections = {name: composed.get(name) for name in raters}
    chosen = {
        name: rater for name, rater in sections.items() if isinstance(rater, dict) and rater.get("kind") == "auto"
    }
    return composed | {name: rater | {"kind": kind} for name, rater in chosen.items()}


class Config(Section):
    """Everything a run depends on; saved beside its results as plain data."""

    version: Literal[2] = VERSION  # of these settings
    name: Name  # of the experiment; becomes a folder's name
    seed: Count = 0  # of weights, order and draws
    scale: str  # of the model and the amounts: tiny, small, paper
    run_dir: str  # folder of the run
    model: Model
    data: Data
    phases: Phases = Phases()
    objectives: Objectives = Objectives()
    curriculum: Curriculum
    annotator: RaterSettings  # auto: the oracle of data.world, or rules where data.world is null
    judge: RaterSettings  # the same
    generation: Generation
    eval: Eval = Eval()
    trainer: Trainer = Trainer()
    parallel: Parallel = Parallel()
    optimizer: Optimizer = Field(default=ADAMW)  # _target_ of a class and its arguments
    scheduler: Scheduler = Field(default=COSINE)  # _target_ of a class or function and its arguments
    training: Training = Training()
    callbacks: Callbacks = Field(default={})  # name: _target_ of a callback of Lightning's and its arguments
    logger: Loggers = Field(default={})  # name: _target_ of a logger of Lightning's and its arguments
    show: Literal["config", "batch"] | None = None  # print the settings, or one batch with its loss weights, and stop
    stage: str | None = None  # of show=batch; null = the first that trains
    resume: str | None = None  # a run folder to go on with
    reuse: str | None = None  # a run folder to take finished stages from
    trust_targets: list[Package] = Field(default=[])  # packages whose classes the files of a resumed run may name

    @property
    def devices(self) -> Devices:
        """The processes of this run and what they compute on."""
        trainer = self.trainer.model_dump(include={"accelerator", "devices", "num_nodes"})
        number = {"devices": 1} if self.trainer.devices == "auto" else {}  # until it is settled (run.ranks)
        return Devices(**trainer | number, **self.parallel.model_dump())

    @property
    def stored_parts(self) -> tuple[Part, ...]:
        """Parts of the model whose work stored features hold: no stage may train them."""
        return ("vision",) if isinstance(self.model, ComposedModel) else ("vision", "projector")

    @property
    def learning(self) -> Learning:
        """How every train stage makes its steps."""
        return Learning(
            trainer=self.trainer,
            training=self.training,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            callbacks=self.callbacks,
        )

    @model_validator(mode="before")
    @classmethod
    def _raters_of_the_data(cls, composed: Any) -> Any:
        """The kind of a rater that is `auto`."""
        return with_raters(composed, ("annotator", "judge"))

    @model_validator(mode="after")
    def _one_device(self) -> Config:
        if self.parallel.strategy == "single" and self.devices.processes > 1:
            raise ValueError(
                f"parallel.strategy: expected auto, ddp or shard for {self.devices.processes} processes "
                f"(trainer.devices x trainer.num_nodes), got single"
            )
        return self

    @model_validator(mode="after")
    def _features_of_a_frozen_encoder(self) -> Config:
        for name in self.curriculum.order:
            stage = self.curriculum.stages[name]
            if not self.data.stored or not isinstance(stage, TrainStage):
                continue
            if trained := [part for part in self.stored_parts if part in stage.trainable]:
                parts, what = " and ".join(trained), " and projector" if len(self.stored_parts) > 1 else ""
                raise ValueError(
                    f"curriculum.stages.{name}.trainable names {parts}, but data.features=true reads what a frozen "
                    f"encoder{what} made: drop {parts} there, or set data.features=false"
                )
        return self

    @model_validator(mode="after")
    def _data_are_there(self) -> Config:
        for name in self.curriculum.order:
            stage, key = self.curriculum.stages[name], f"curriculum.stages.{name}.data"
            splits = stage.data if isinstance(stage, TrainStage) else [stage.data]
            for split in (one for one in splits if one in SPLITS):
                source = getattr(self.data, split)
                if source is None:
                    raise ValueError(
                        f"{key}: data.{split} is null: say where it is (data.{split}=DIR), or name a collect stage"
                    )
                if isinstance(source, dict) and not isinstance(stage, TrainStage):
                    raise ValueError(f"{key}: expected one dataset, got data.{split} with {', '.join(source)}")
        return self

    @model_validator(mode="after")
    def _answers_fit(self) -> Config:
        fields = self.model.language.config if isinstance(self.model, ComposedModel) else None
        fields = fields or {}
        most = fields.get("max_position_embeddings", fields.get("n_positions"))
        if isinstance(most, int) and self.generation.max_new_tokens >= most:
            raise ValueError(
                f"generation.max_new_tokens: expected less than the model's {most:,} positions "
                f"(model.language.config), got {self.generation.max_new_tokens:,}"
            )
        return self

    @model_validator(mode="after")
    def _average_of_whole_weights(self) -> Config:
        """A teacher of averaged weights needs the model whole on every rank."""
        if self.parallel.strategy != "shard" or self.objectives.distill.teacher != "average":
            return self
        for name in self.curriculum.order:
            stage = self.curriculum.stages[name]
            if isinstance(stage, TrainStage) and "distill" in stage.objectives.values():
                raise ValueError(
                    f"objectives.distill.teacher: expected current under parallel.strategy=shard, got average "
                    f"(curriculum.stages.{name}); or set parallel.strategy=ddp"
                )
        return self

    @model_validator(mode="after")
    def _packed_matrices_stay(self) -> Config:
        """What `model.quantize` needs; a language model that is drawn or trained is not one to pack."""
        model, kind = self.model, self.model.quantize
        if kind is None:
            return self
        composed = isinstance(model, ComposedModel)
        if isinstance(model, ComposedModel) and model.language.name is None:
            raise ValueError(
                f"model.quantize={kind}: expected a language model from files (model.language.name), got one that is "
                f"drawn (model.language.config)"
            )
        lora = "model.language.lora" if composed else "model.lora"
        if model.lora is None:
            raise ValueError(f"model.quantize={kind}: expected adapters ({lora}) beside matrices that cannot learn")
        if model.lora.dora:
            raise ValueError(f"model.quantize={kind}: expected {lora}.dora=false; DoRA rewrites the rows of a matrix")
        if self.parallel.strategy == "shard":
            raise ValueError(
                f"model.quantize={kind}: expected parallel.strategy=auto, single or ddp, got shard, under which packed "
                f"matrices are not proved"
            )
        if self.generation.engine == "server" and self.generation.server.command is not None:
            raise ValueError(
                f"model.quantize={kind}: expected generation.engine=native, got a server that is started with the "
                f"exported model, whose base is not packed and answers otherwise"
            )
        for name in self.curriculum.order:
            stage = self.curriculum.stages[name]
            if isinstance(stage, TrainStage) and "language" in stage.trainable:
                raise ValueError(
                    f"model.quantize={kind}: curriculum.stages.{name}.trainable names language, whose packed matrices "
                    f"cannot learn; train lora"
                )
        return self

    @model_validator(mode="after")
    def _lora_is_there(self) -> Config:
        for name, stage in self.curriculum.stages.items():
            if isinstance(stage, TrainStage) and "lora" in stage.trainable and self.model.lora is None:
                key = "model.language.lora" if isinstance(self.model, ComposedModel) else "model.lora"
                raise ValueError(f"curriculum.stages.{name}.trainable names lora, but {key} is null")
        return self
