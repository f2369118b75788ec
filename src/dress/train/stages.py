"""The stages of an experiment: which are evaluated under which name, and all that each one's result depends on.

A fingerprint leaves out only what is listed here, so that a new setting counts unless somebody says otherwise.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from dress import config
from dress.config.no_result import BY_CONTENT, NO_RESULT
from dress.config.raters import LLM
from dress.feedback.rater import identity
from dress.kernels.precision import precision_for
from dress.phases import PHASES
from dress.phases.critique import praise
from dress.phases.registry import find_phase
from dress.train.run_data import RunData

# --- which model is evaluated, asked and conditioned ----------------------------------------------


def trained_stages(curriculum: config.Curriculum) -> list[str]:
    """Names of the train stages, in order."""
    return curriculum.trained()


def evaluated_stages(curriculum: config.Curriculum, name: str | None = None) -> dict[str, str]:
    """Label to train stage, in order: whose models an eval stage evaluates.

    What the stage's `models` says; else, by their own names, the last stage before any that learns from feedback,
    each that does, and the last of all.

    Args:
        curriculum: the stages.
        name: of the eval stage; None for the last one, or for a curriculum without one.
    """
    evals = [n for n in curriculum.order if isinstance(curriculum.stages[n], config.EvalStage)]
    name = name or (evals[-1] if evals else None)
    stage = curriculum.stages[name] if name else None
    if isinstance(stage, config.EvalStage) and stage.models:
        return dict(stage.models)
    order = curriculum.trained(name)
    learned = [n for n in order if _learns_from_feedback(curriculum, n)]
    before = order[: order.index(learned[0])] if learned else order
    return {n: n for n in dict.fromkeys([*before[-1:], *learned, *order[-1:]])}


def headline(curriculum: config.Curriculum) -> dict[str, str]:
    """Label to the condition that this model is meant to answer under: praise once it has learned from feedback."""
    models = evaluated_stages(curriculum)
    return {label: "praise" if _has_seen_feedback(curriculum, source) else "none" for label, source in models.items()}


def conditions(settings: config.Config, stage: str) -> dict[str, str]:
    """The presets as text, in the form that a stage's model has learned: what follows the user text at inference.

    A model that has learned none is asked in the form of the next stage that teaches one, to be compared with it.
    """
    order = settings.curriculum.trained()
    place = order.index(stage)
    known = [n for n in (*reversed(order[: place + 1]), *order[place + 1 :]) if _phases(settings.curriculum, n)]
    form = (
        "rating" if known and "rating" in _phases(settings.curriculum, known[0]) else settings.phases.critique.condition
    )
    return {"none": "", "praise": praise(form, settings.phases)}


def _phases(curriculum: config.Curriculum, name: str) -> set[str]:
    """Those of a train stage that teach a condition."""
    stage = curriculum.stages[name]
    names = stage.phases if isinstance(stage, config.TrainStage) else ()
    return {name for name in names if name in PHASES and PHASES[name].conditioned}


def _learns_from_feedback(curriculum: config.Curriculum, name: str) -> bool:
    stage = curriculum.stages[name]
    if not isinstance(stage, config.TrainStage):
        return False
    return stage.data == "feedback" or any(PHASES[name].feedback for name in stage.phases if name in PHASES)


def _has_seen_feedback(curriculum: config.Curriculum, name: str) -> bool:
    order = curriculum.trained()
    return any(_learns_from_feedback(curriculum, n) for n in order[: order.index(name) + 1])


# --- what a result depends on ---------------------------------------------------------------------


def depends_on_first(settings: config.Config, tokenizer: str, weights: str | None) -> dict[str, Any]:
    """Everything the model before the first stage depends on.

    Args:
        settings: of the run.
        tokenizer: its hash.
        weights: fingerprint of those that were loaded from somewhere.
    """
    return {"model": settings.model.model_dump(), "tokenizer": tokenizer, "weights": weights, "seed": settings.seed}


def depends_on(settings: config.Config, read: RunData, name: str) -> dict[str, Any]:
    """Everything a stage's result depends on, beside the stages before it."""
    stage, data = settings.curriculum.stages[name], settings.data
    parts: dict[str, Any] = {
        "name": name,
        "stage": stage.model_dump(),
        "data": data.model_dump(exclude={*NO_RESULT["data"], *BY_CONTENT}),
    }
    generation = settings.generation.model_dump(exclude=set(NO_RESULT["generation"]))
    match stage:
        case config.TrainStage():
            source = getattr(data, stage.data)
            parts["shards"] = read.stream(source).fingerprint if source else "collected"
            parts["validation"] = read.stream(data.validation).fingerprint if data.validation else None
            phases = settings.phases.model_dump()
            names = [find_phase(phase, settings.phases.modules).settings for phase in stage.phases]
            parts["phases"] = {key: phases[key] for keys in names for key in (phases if keys is None else keys)}
            parts["training"] = settings.training.model_dump(exclude=set(NO_RESULT["training"]))
            parts["trainer"] = settings.trainer.model_dump(exclude=set(NO_RESULT["trainer"]))
            parts["trainer"]["precision"] = precision_for(settings.trainer.precision)
            parts["made_by"] = [settings.optimizer, settings.scheduler, settings.callbacks]
        case config.CollectStage():
            asked = settings.curriculum.trained(name)[-1]
            parts["shards"] = read.shards("prompts").fingerprint
            parts["annotator"] = _rater(settings.annotator)
            parts["generation"] = generation
            parts["condition"] = conditions(settings, asked)[stage.condition]
        case config.EvalStage():
            parts["shards"] = read.shards("eval").fingerprint
            parts["judge"] = _rater(settings.judge)
            parts["conditions"] = {
                label: conditions(settings, source)
                for label, source in evaluated_stages(settings.curriculum, name).items()
            }
            parts["generation"] = generation
            parts["eval"] = settings.eval.model_dump(exclude=set(NO_RESULT["eval"]))
    return parts


def cell_depends_on(settings: config.Config, read: RunData, name: str, label: str) -> dict[str, Any]:
    """Everything the answers of one model in an eval stage depend on, beside that model."""
    parts = depends_on(settings, read, name)
    del parts["stage"]["models"]
    return parts | {"label": label, "conditions": parts["conditions"][label]}


def _rater(settings: config.Rater) -> dict[str, Any]:
    """Also how an LLM is reached: whether another server says the same is for nobody to assume."""
    told = identity(settings)
    return told | settings.model_dump(exclude=set(NO_RESULT["rater"])) if isinstance(settings, LLM) else told


def fingerprint(before: str, parts: dict[str, Any]) -> str:
    """Of what was made `before`, and of `parts` beside it."""
    text = before + json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
