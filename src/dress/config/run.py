"""The composed configuration of a training run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from dress.config.data import Data
from dress.config.model import Model
from dress.config.phases import Phases
from dress.config.raters import RaterSettings
from dress.config.stages import SPLITS, Curriculum, TrainStage
from dress.config.types import Condition, Count, Name, Positive, PositiveReal, Section, VariableName

KeepCache = Literal["auto", "on", "off"]
"""Go on from the turn before, a batch of dialogues at a time; auto: where keys and values fit into memory."""


class Generation(Section):
    max_new_tokens: Positive
    batch_size: Positive  # prompts
    keep_cache: KeepCache = "auto"


class Eval(Section):
    turns: Positive = 3  # answers per dialogue: 0, 1, 2
    conditions: Annotated[list[Condition], Field(min_length=1)] = Field(default=["none", "praise"])
    refine_condition: Condition = "none"  # from the second answer on
    scenes: Positive = 12  # in the report


class Training(Section):
    """How every train stage runs."""

    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    devices: Positive = 1
    strategy: str = "auto"  # Lightning's name, e.g. ddp
    precision: Literal["auto", "32-true", "bf16-mixed", "bf16-true"] = "auto"
    threads: Positive | None = None  # CPU threads; null = as many as cores
    clip: PositiveReal = 1.0  # gradient norm
    checkpointing: Literal["auto", "on", "off"] = "auto"  # recompute activations; auto: where they do not fit
    keep_memory: bool = True  # on CPU: keep freed memory for the next step
    checkpoint_every: Positive = 100  # optimiser steps
    log_every: Positive = 10  # optimiser steps
    validate_every: Positive = 100  # optimiser steps, on data.validation
    overfit: bool = False  # train on the first step's records again and again

    @field_validator("precision", mode="before")
    @classmethod
    def _no_fp16(cls, given: Any) -> Any:
        if isinstance(given, str) and given.startswith("16"):
            raise ValueError(
                "fp16 multiplies gradients by a scale, also where they are clipped; expected bf16-mixed or 32-true"
            )
        return given


class Logger(Section):
    """Where curves and results go; any number of places."""

    csv: bool = False
    tensorboard: bool = False
    wandb: bool = False
    project: str = "dress"  # wandb
    entity: str | None = None  # wandb; null = your default
    api_key_env: VariableName = "WANDB_API_KEY"

    @model_validator(mode="before")
    @classmethod
    def _one_kind(cls, given: Any) -> Any:
        """Runs that were begun when there was one logger have saved its kind."""
        if isinstance(given, dict) and given.get("kind") in ("csv", "tensorboard", "wandb"):
            given = {**given, given["kind"]: True}
            del given["kind"]
        return given


class Config(Section):
    """Everything a run depends on; saved beside its results as plain data."""

    name: Name  # of the experiment; becomes a folder's name
    seed: Count
    scale: str
    run_dir: str
    model: Model
    data: Data
    phases: Phases
    curriculum: Curriculum
    annotator: RaterSettings
    judge: RaterSettings
    generation: Generation
    eval: Eval = Eval()
    training: Training = Training()
    logger: Logger = Logger()
    show: Literal["config", "batch"] | None = None
    stage: str | None = None  # of show=batch; null = the first that trains
    resume: str | None = None  # a run folder to go on with
    reuse: str | None = None  # a run folder to take finished stages from

    @model_validator(mode="after")
    def _features_of_a_frozen_encoder(self) -> Config:
        for name in self.curriculum.order:
            stage = self.curriculum.stages[name]
            if self.data.features and isinstance(stage, TrainStage) and "vision" in stage.trainable:
                raise ValueError(
                    f"curriculum.stages.{name}.trainable names vision, but data.features=true reads what a frozen "
                    f"encoder made: drop vision there, or set data.features=false"
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
        fields = self.model.language.config or {}
        most = fields.get("max_position_embeddings", fields.get("n_positions"))
        if isinstance(most, int) and self.generation.max_new_tokens >= most:
            raise ValueError(
                f"generation.max_new_tokens: expected less than the model's {most:,} positions "
                f"(model.language.config), got {self.generation.max_new_tokens:,}"
            )
        return self

    @model_validator(mode="after")
    def _lora_is_there(self) -> Config:
        for name, stage in self.curriculum.stages.items():
            if isinstance(stage, TrainStage) and "lora" in stage.trainable and self.model.language.lora is None:
                raise ValueError(f"curriculum.stages.{name}.trainable names lora, but model.language.lora is null")
        return self
