"""Settings of the stages, and the order in which an experiment runs them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from dress.config.nearest import nearest
from dress.config.types import (
    Condition,
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


class TrainStage(Section):
    kind: Literal["train"] = "train"
    # Loss weight of each phase's tokens; null takes a phase out that a file below has set.
    phases: Annotated[dict[Name, PositiveReal], BeforeValidator(without_nulls)] = Field(default={})
    data: Split  # which shards it streams
    steps: Positive  # optimiser steps
    records_per_step: Positive  # over all ranks
    lr: PositiveReal
    warmup: Fraction = 0.05  # share of steps
    weight_decay: Real = 0.01
    trainable: Annotated[list[Part], Field(min_length=1)]


class CollectStage(Section):
    kind: Literal["collect"] = "collect"
    records: Positive  # of data.prompts, from the first
    turns: Positive = 2  # answers per dialogue; each after the first answers a refinement
    samples: Positive = 1  # dialogues per question
    temperature: Real = 1.0  # 0 = greedy
    top_p: TopP = 1.0
    condition: Condition = "none"  # what the answers stand after; praise is what the model's own stage taught
    per_shard: Positive = 250  # records; also what an interrupted collection repeats at most


class EvalStage(Section):
    kind: Literal["eval"] = "eval"
    records: Positive | None = None  # of data.eval, from the first; null = all
    models: dict[ModelName, Name] | None = None  # label: train stage; null = see stages.evaluated_stages


Stage = Annotated[TrainStage | CollectStage | EvalStage, Field(discriminator="kind")]


class Curriculum(Section):
    order: list[str]
    stages: dict[ModelName, Stage]

    @model_validator(mode="after")
    def _known(self) -> Curriculum:
        for number, name in enumerate(self.order):
            if name not in self.stages:
                near = nearest(name, sorted(self.stages))
                raise ValueError(f"order names {name!r}; expected one of {', '.join(sorted(self.stages))}.{near}")
            if name in self.order[:number]:
                raise ValueError(f"order names {name!r} twice; give the second one a name and settings of its own")
            self._possible(name, self.trained(name))
        return self

    def _possible(self, name: str, before: list[str]) -> None:
        """Refuse a stage that nothing before it makes possible."""
        stage = self.stages[name]
        if isinstance(stage, TrainStage):
            if not stage.phases:
                raise ValueError(f"curriculum.stages.{name}.phases is empty; expected at least one of the phases")
            return
        if not before:
            what = "asks" if isinstance(stage, CollectStage) else "evaluates"
            raise ValueError(f"order: {name} {what} the model of a train stage before it, but there is none")
        for label, source in ((isinstance(stage, EvalStage) and stage.models) or {}).items():
            if source not in before:
                raise ValueError(
                    f"curriculum.stages.{name}.models.{label}: expected a train stage before {name} "
                    f"({', '.join(before)}), got {source!r}"
                )

    def trained(self, before: str | None = None) -> list[str]:
        """Names of the train stages, in order; those before a stage."""
        order = self.order if before is None else self.order[: self.order.index(before)]
        return [name for name in order if isinstance(self.stages.get(name), TrainStage)]

    def collected(self, before: str) -> str | None:
        """The nearest collect stage before a stage."""
        order = self.order[: self.order.index(before)]
        return next((name for name in reversed(order) if isinstance(self.stages.get(name), CollectStage)), None)
