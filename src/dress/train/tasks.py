"""What each stage receives; its fingerprint is the hash of that, so that no dependency can be forgotten."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from dress import config
from dress.base.files import checksum
from dress.base.seeding import seed_for
from dress.config.graph import evaluated_stages, evaluation
from dress.config.names import is_place, place_of
from dress.config.no_result import BY_CONTENT, FOLLOWED, NAMES, NO_RESULT
from dress.config.raters import LLM, Human, PlainRater, Replay
from dress.feedback.raters import identity
from dress.kernels.precision import precision_for
from dress.model.checkpoint import read_facts
from dress.objectives.stage import StageObjectives, used_objectives
from dress.phases import used_settings
from dress.phases.conditions import conditions
from dress.train.run_data import Output, Records, RunData

NO_TRACE = {"changes": "nothing that is made"}
"""Of a field that is in no fingerprint."""
IF_ANY = {"changes": "what is made, where it is not empty"}
"""Of a field that is in a fingerprint unless it is empty: those of DRESS 0.2 have none."""
SINCE_0_3: dict[type[config.Section], tuple[str, ...]] = {
    config.Phases: ("sft", "preference", "distill", "self_correction", "language_feedback"),
    config.Critique: ("marked_weight",),
    config.Eval: ("blank_images",),
    config.TrainStage: ("lr_scale",),
    config.CollectStage: ("skip",),
}
"""Settings that fingerprints of DRESS 0.2 lack: where they are as by default, they stand in none."""
LEFT_OUT: dict[type[config.Section], Any] = {
    config.Data: set(NO_RESULT["data"] | BY_CONTENT),
    config.Learning: {name: set(NO_RESULT[name]) for name in ("trainer", "training")},
    config.Generation: set(NO_RESULT["generation"]),
    config.Eval: set(NO_RESULT["eval"]),
    config.TrainStage: set(NAMES | FOLLOWED),
    config.CollectStage: set(NAMES),
    config.EvalStage: set(NAMES),
    config.ExportStage: set(NAMES),
}
"""Settings of a section that change no result, or are told by what they name."""


@dataclass(frozen=True)
class InitialModel:
    """What the model before any stage is made from."""

    model: config.Model
    tokenizer: str  # its hash
    loaded: str | None  # fingerprint of weights from files; None where all are drawn
    seed: int


@dataclass(frozen=True)
class TrainTask:
    """What a train stage receives."""

    name: str
    stage: config.TrainStage
    seed: int  # of the order of records
    weights: Output
    records: Records
    validation: Records | None
    data: config.Data
    phases: config.Phases  # what its own phases read
    learning: config.Learning  # with the precision that this machine takes
    held_out: Records | None = field(default=None, metadata=NO_TRACE)  # where validation names none
    objectives: Mapping[str, config.Section] = field(default_factory=dict, metadata=IF_ANY)  # those it has

    @property
    def stage_objectives(self) -> StageObjectives:
        """What its phases minimise."""
        return StageObjectives(self.stage, self.objectives)

    @property
    def awaits_collection(self) -> bool:
        """Whether a collect stage of the run writes some of its records."""
        return self.stage.awaits_collection

    @property
    def may_be_idle(self) -> bool:
        """Whether it may find nothing to learn."""
        return self.awaits_collection and self.learning.training.idle == "pass"


@dataclass(frozen=True)
class CollectTask:
    """What a collect stage receives."""

    name: str
    stage: config.CollectStage
    seed: int  # of the drawing
    model: Output
    questions: Records
    condition: str  # text that the first answer stands after
    annotator: config.RaterSettings
    generation: config.Generation
    data: config.Data


@dataclass(frozen=True)
class EvalTask:
    """What an eval stage receives."""

    name: str
    stage: config.EvalStage
    models: Mapping[str, Output]  # by label
    conditions: Mapping[str, Mapping[str, str]]  # by label: condition to text
    questions: Records
    judge: config.RaterSettings
    generation: config.Generation
    eval: config.Eval
    data: config.Data

    def of(self, label: str) -> EvalTask:
        """What the answers of one model depend on."""
        return replace(self, models={label: self.models[label]}, conditions={label: self.conditions[label]})


@dataclass(frozen=True)
class ExportTask:
    """What an export stage receives."""

    name: str
    stage: config.ExportStage
    model: Output
    conditions: Mapping[str, str]  # condition to text
    questions: Records
    generation: config.Generation
    figures: Output | None  # of the eval stage whose figures the card shows


Task = TrainTask | CollectTask | EvalTask | ExportTask


def fingerprint(received: Task | InitialModel) -> str:
    """Of everything that a stage, or the initial model, is made from: equal ones give equal results."""
    named = (
        one.name for one in fields(received)
        if one.metadata != NO_TRACE and (one.metadata != IF_ANY or getattr(received, one.name))
    )  # fmt: skip
    parts = {name: _content(getattr(received, name)) for name in named}
    text = json.dumps([type(received).__name__, parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def facts(task: Task) -> dict[str, Any]:
    """What a person wants to know of a stage, as plain data: records, where they are there already, amounts, rate."""
    match task:
        case TrainTask():
            stage = task.stage
            return {
                "kind": "train",
                "records": None if task.awaits_collection else task.records.count,
                "data": dict(stage.data),
                "steps": stage.total_steps,
                "epochs": stage.epochs,
                "records_per_step": stage.records_per_step,
                "lr": stage.rate,
                "phases": dict(stage.phases),
            }
        case CollectTask():
            return {
                "kind": "collect",
                "records": len(task.stage.asked(task.questions.count)),
                "data": {task.stage.data: 1.0},
            }
        case EvalTask():
            return {"kind": "eval", "records": task.questions.count, "data": {task.stage.data: 1.0}}
        case ExportTask():
            return {"kind": "export", "records": task.questions.count, "data": {task.stage.data: 1.0}}


def _content(value: Any) -> Any:
    match value:
        case Output() | Records():
            return value.fingerprint
        case PlainRater() | Replay() | Human():
            return identity(value)
        case LLM():  # also how it is reached: whether another server says the same is for nobody to assume
            return identity(value) | value.model_dump(exclude=set(NO_RESULT["rater"]))
        case config.Generation():  # a server's draws are others; which one computes them, its first answers vouch for
            native = {"engine"} if value.engine == "native" else set()
            return value.model_dump(exclude=LEFT_OUT[config.Generation] | native)
        case config.Phases() | config.Eval() | config.TrainStage() | config.CollectStage():
            absent: dict[str, Any] = dict.fromkeys([*_as_before(value), *LEFT_OUT.get(type(value), ())], True)
            if isinstance(value, config.Phases):
                absent["critique"] = _as_before(value.critique)
            return value.model_dump(exclude=absent)
        case config.Section():
            return value.model_dump(exclude=LEFT_OUT.get(type(value)))
        case Mapping():
            return {key: _content(one) for key, one in value.items()}
    return value


def _as_before(value: config.Section) -> set[str]:
    """Settings that DRESS 0.2 did not have, and that change nothing."""
    fields = type(value).model_fields
    defaults = {name: fields[name].get_default(call_default_factory=True) for name in SINCE_0_3[type(value)]}
    return {name for name, default in defaults.items() if getattr(value, name) == default}


class Tasks:
    """The tasks of a run by stage, in order, and what each will make.

    Args:
        settings: of the run.
        data: of the run.
        initial: fingerprint of the model before any stage.

    Raises:
        ValueError: shards that are missing or damaged, a folder of weights that holds no model; all by name.
        FileNotFoundError: the same.
    """

    def __init__(self, settings: config.Config, data: RunData, initial: str) -> None:
        self.settings, self.data = settings, data
        self.initial = Output(None, initial)
        self.outputs: dict[str, Output] = {}
        self.by_name: dict[str, Task] = {}
        for name in settings.curriculum.order:
            self.by_name[name] = task = self._task(name)
            self.outputs[name] = Output(Path(settings.run_dir) / "stages" / name, fingerprint(task))

    def _task(self, name: str) -> Task:
        settings, stage = self.settings, self.settings.curriculum.stages[name]
        seed = seed_for(settings.seed, name)
        match stage:
            case config.TrainStage():
                precision = {"precision": precision_for(settings.trainer.precision)}
                trainer = settings.trainer.model_copy(update=precision)
                learning = settings.learning.model_copy(update={"trainer": trainer})
                return TrainTask(
                    name, stage, seed, self._weights(name, stage.weights), self.data.records(stage.data, self.outputs),
                    self.data.validation,
                    settings.data, used_settings(settings.phases, stage.phases), learning,
                    self.data.held_out, used_objectives(stage, settings.objectives),
                )  # fmt: skip
            case config.CollectStage():
                text = conditions(settings.curriculum, settings.phases, stage.model)[stage.condition]
                questions = self.data.records({stage.data: 1.0}, self.outputs)
                try:
                    stage.asked(questions.count)
                except ValueError as error:
                    raise ValueError(f"curriculum.stages.{name}.{error}") from None
                return CollectTask(
                    name, stage, seed, self.outputs[stage.model], questions, text, settings.annotator,
                    settings.generation, settings.data,
                )  # fmt: skip
            case config.EvalStage():
                models = evaluated_stages(settings.curriculum, name)
                texts = {label: conditions(settings.curriculum, settings.phases, one) for label, one in models.items()}
                return EvalTask(
                    name, stage, {label: self.outputs[one] for label, one in models.items()}, texts,
                    self.data.records({stage.data: 1.0}, self.outputs), settings.judge, settings.generation,
                    settings.eval, settings.data,
                )  # fmt: skip
            case config.ExportStage():
                own_texts = conditions(settings.curriculum, settings.phases, stage.model)
                figures = self.outputs.get(evaluation(settings.curriculum) or "")
                questions = self.data.records({stage.data: 1.0}, self.outputs)
                return ExportTask(
                    name, stage, self.outputs[stage.model], own_texts, questions, settings.generation.native, figures
                )

    def _weights(self, name: str, weights: str | None) -> Output:
        if weights is None:
            return self.initial
        if not is_place(weights):
            return self.outputs[weights]
        folder = place_of(weights)
        try:
            read_facts(folder)
            return Output(folder, checksum(folder / "model.safetensors")[:16], own=False)
        except FileNotFoundError as missing:
            raise FileNotFoundError(f"curriculum.stages.{name}.weights={weights}: {missing}") from None
