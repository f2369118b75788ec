"""Settings of the stages. A stage names what it uses; which run, and in which order, follows from the names."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from dress.config.export import ExportStage
from dress.config.leaving_out import leave_out
from dress.config.names import check_name, in_order, is_place, with_likes
from dress.config.objectives import ObjectiveName
from dress.config.types import (
    Condition,
    Count,
    Fraction,
    ModelName,
    Name,
    Part,
    Positive,
    PositiveReal,
    Real,
    Section,
    Split,
    TopP,
    without_nulls,
)

SPLITS: tuple[str, ...] = get_args(Split)


def _shares(value: Any) -> Any:
    """One name, or a list of names, as a mapping with weight 1; null takes a name out that a file below has set."""
    if isinstance(value, str):
        return {value: 1.0}
    return dict.fromkeys(value, 1.0) if isinstance(value, list) else without_nulls(value)


def _labels(value: Any) -> Any:
    """A list of stages as a mapping from each one's own name."""
    return {name: name for name in value} if isinstance(value, list) else without_nulls(value)


def _list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Shares = Annotated[dict[Name, PositiveReal], BeforeValidator(_shares), Field(min_length=1)]


class TrainStage(Section):
    """Learns: from which weights, from which records, which parts."""

    kind: Literal["train"] = "train"  # trains a model
    weights: str | None  # a train stage, RUN_FOLDER:stage, a folder (with a / in it); null = the initial model
    data: Shares  # a split, what a collect stage wrote, or several of them and their weights
    phases: Annotated[dict[Name, PositiveReal], BeforeValidator(_shares)] = Field(default={})  # loss weights
    trainable: Annotated[list[Part], Field(min_length=1)]  # the parts that learn
    objective: ObjectiveName | dict[Name, ObjectiveName] = "lm"  # of all phases, or {phase: objective}, else lm
    steps: Positive | None = None  # optimiser steps; null = as many as the epochs take
    epochs: PositiveReal | None = None  # passes over its records, instead of steps; may be a fraction
    records_per_step: Positive  # over all ranks
    lr: PositiveReal  # learning rate after the warm-up
    lr_scale: PositiveReal = 1.0  # multiplies lr, which a scale gives: for objectives that need smaller steps
    warmup: Fraction = 0.05  # share of steps
    weight_decay: Real = 0.01  # share of a weight that a step of rate 1 takes away

    @model_validator(mode="after")
    def _has_an_amount(self) -> TrainStage:
        if self.steps is None and self.epochs is None:
            raise ValueError("expected an amount, steps or epochs; found neither")
        return self

    @model_validator(mode="after")
    def _objectives_of_phases(self) -> TrainStage:
        if isinstance(self.objective, dict):
            if "words" in self.objective.values():
                raise ValueError("objective: words is the objective of a whole stage; expected objective=words")
            for name in self.objective.keys() - self.phases.keys():
                raise ValueError(f"objective.{name}: expected a phase of this stage, {', '.join(self.phases)}")
        return self

    @model_validator(mode="after")
    def _words_of_several_images(self) -> TrainStage:
        if self.objective == "words":
            if unreached := sorted(set(self.trainable) - {"projector", "vision"}):
                raise ValueError(
                    f"objective=words reaches projector and vision only, trainable names {', '.join(unreached)}"
                )
            if self.records_per_step < 2:
                raise ValueError("objective=words tells images of a step apart, expected records_per_step >= 2, got 1")
        return self

    @property
    def rate(self) -> float:
        """Its learning rate."""
        return self.lr * self.lr_scale

    @property
    def objectives(self) -> dict[str, ObjectiveName]:
        """The objective of each phase."""
        if isinstance(self.objective, str):
            return dict.fromkeys(self.phases, self.objective)
        return {name: self.objective.get(name, "lm") for name in self.phases}

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the stage; of epochs, what `dress.train.amounts` has made of them.

        Raises:
            ValueError: epochs, and the records are not counted yet.
        """
        if self.steps is None:
            raise ValueError(f"{self.epochs:g} epochs: how many steps that is, only its records say")
        return self.steps

    @property
    def awaits_collection(self) -> bool:
        """Whether a collect stage of the run writes some of its records."""
        return not self.data.keys() <= set(SPLITS)

    @property
    def reads_feedback(self) -> bool:
        """Whether its records hold feedback: the split of that name, or what a collect stage wrote."""
        return bool(set(self.data) - (set(SPLITS) - {"feedback"}))

    @property
    def data_title(self) -> str:
        """The data as a message names them."""
        return " + ".join(f"data.{name}" if name in SPLITS else f"stage {name}" for name in self.data)


class CollectSettings(Section):
    """How many answers are collected, and how they are drawn."""

    records: Positive  # whose questions are asked, from the first that is not skipped
    skip: Count = 0  # records before these: later rounds ask other questions
    turns: Positive = 2  # answers per dialogue; each after the first answers a refinement
    samples: Positive = 1  # dialogues per question
    temperature: Real = 1.0  # 0 = greedy
    top_p: TopP = 1.0  # probability of the likeliest tokens that are drawn from; 1 = all
    condition: Condition = "none"  # what the answers stand after; praise is what the model's own stage taught
    per_shard: Positive = 250  # records; also what an interrupted collection repeats at most

    def asked(self, count: int) -> range:
        """Which of `count` records are asked.

        Raises:
            ValueError: all of them are skipped.
        """
        if 0 < count <= self.skip:
            raise ValueError(f"skip={self.skip} leaves none of the {count:,} records; expected fewer")
        return range(self.skip, min(self.skip + self.records, count))


class CollectStage(CollectSettings):
    """Answers of a stage's model, with the annotator's feedback."""

    kind: Literal["collect"] = "collect"  # collects answers with feedback
    model: Name  # a train stage
    data: Split = "prompts"  # whose questions are asked


class EvalStage(Section):
    """Judges the answers of stages' models to records that none has seen."""

    kind: Literal["eval"] = "eval"  # evaluates models
    models: Annotated[dict[ModelName, Name], BeforeValidator(_labels)] = Field(default={})  # label: train stage
    data: Split = "eval"  # whose questions are asked
    records: Positive | None = None  # from the first; null = all


Stage = Annotated[TrainStage | CollectStage | EvalStage | ExportStage, Field(discriminator="kind")]


class Curriculum(Section):
    """The stages that there are, and those that a run is for."""

    run: Annotated[list[Name], BeforeValidator(_list), Field(min_length=1)]  # these, and all that they name
    without: Annotated[list[Name], BeforeValidator(_list)] = Field(
        default=[]
    )  # left out; others start from their start
    stages: dict[ModelName, Stage]  # name: its settings, or like: another stage, and what differs

    @model_validator(mode="before")
    @classmethod
    def _like(cls, value: Any) -> Any:
        """Give each stage with `like` the settings of the stage that it names."""
        if not isinstance(value, Mapping) or not isinstance(value.get("stages"), Mapping):
            return value
        complete = {**value, "stages": with_likes(without_nulls(dict(value["stages"])))}
        without = _list(value.get("without") or [])
        return leave_out(complete, without) if isinstance(without, list) and without else complete

    @model_validator(mode="after")
    def _works(self) -> Curriculum:
        for name in self.run:
            check_name("curriculum.run", name, self.stages)
        for name in self.order:
            stage = self.stages[name]
            if isinstance(stage, TrainStage) and not stage.phases:
                raise ValueError(f"curriculum.stages.{name}.phases is empty; expected at least one of the phases")
            if isinstance(stage, EvalStage) and not stage.models:
                raise ValueError(f"curriculum.stages.{name}.models is empty; expected {{label: train stage}}")
        return self

    @cached_property
    def order(self) -> list[str]:
        """The stages that run, each after all that it names; else as they stand in `stages`.

        Raises:
            ValueError: a stage names one that does not exist or cannot be used there, or stages name each other in a
                circle.
        """
        needs: dict[str, list[str]] = {}
        waiting = list(self.run)
        while waiting:
            name = waiting.pop()
            if name not in needs:
                needs[name] = self.needs(name)
                waiting += needs[name]
        return in_order({name: needs[name] for name in self.stages if name in needs})

    def needs(self, name: str) -> list[str]:
        """The stages that a stage names.

        Raises:
            ValueError: one does not exist, or cannot be used there; names the key and the nearest name.
        """
        stage, key = self.stages[name], f"curriculum.stages.{name}"
        trainers = [other for other, one in self.stages.items() if isinstance(one, TrainStage) and other != name]
        collectors = [other for other, one in self.stages.items() if isinstance(one, CollectStage)]
        match stage:
            case TrainStage():
                weights = [] if stage.weights is None or is_place(stage.weights) else [stage.weights]
                for one in weights:
                    check_name(
                        f"{key}.weights", one, trainers, "null, a train stage ({}), RUN_FOLDER:stage or a folder"
                    )
                for one in stage.data:
                    check_name(f"{key}.data", one, [*SPLITS, *collectors], "a split or a collect stage ({})")
                return [*weights, *(one for one in stage.data if one not in SPLITS)]
            case CollectStage():
                if name in SPLITS:
                    raise ValueError(f"{key}: {name} is the name of a split; give this collect stage another one")
                check_name(f"{key}.model", stage.model, trainers, "a train stage ({})")
                return [stage.model]
            case EvalStage():
                for label, one in stage.models.items():
                    check_name(f"{key}.models.{label}", one, trainers, "a train stage ({})")
                return list(stage.models.values())
            case ExportStage():
                check_name(f"{key}.model", stage.model, trainers, "a train stage ({})")
                return [stage.model]

    def train_stages(self) -> list[str]:
        """Names of the train stages that run, in order."""
        return [name for name in self.order if isinstance(self.stages[name], TrainStage)]
