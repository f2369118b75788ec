"""The stages of an experiment: which are trained, which evaluated, and all that each one's result depends on."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from dress import config
from dress.callbacks import precision_for
from dress.data.run_data import RunData
from dress.feedback.rater import identity
from dress.phases import SETTINGS_OF
from dress.phases.critique import praise


def trained_stages(curriculum: config.Curriculum) -> list[str]:
    """Names of the train stages, in order."""
    return [n for n in curriculum.order if isinstance(curriculum.stages[n], config.TrainStage)]


def evaluated_stages(curriculum: config.Curriculum) -> dict[str, str]:
    """`sft`: the last model before feedback was collected; `dress`: the last model after, if there is one."""
    order, stages = curriculum.order, curriculum.stages
    cut = next((i for i, n in enumerate(order) if isinstance(stages[n], config.CollectStage)), len(order))
    before = [name for name in trained_stages(curriculum) if order.index(name) < cut]
    after = [name for name in trained_stages(curriculum) if order.index(name) >= cut]
    return {**({"sft": before[-1]} if before else {}), **({"dress": after[-1]} if after else {})}


def conditions(settings: config.Config) -> dict[str, str]:
    """The presets as text: what follows the user text at inference."""
    last = settings.curriculum.stages[trained_stages(settings.curriculum)[-1]]
    assert isinstance(last, config.TrainStage)
    form = "rating" if "rating" in last.phases else settings.phases.critique.condition
    return {"none": "", "praise": praise(form, settings.phases)}


def depends_on(settings: config.Config, read: RunData, name: str) -> dict[str, Any]:
    """Everything a stage's result depends on, beside the stages before it."""
    stage, data = settings.curriculum.stages[name], settings.data
    parts: dict[str, Any] = {"stage": stage.model_dump(), "name": name}
    match stage:
        case config.TrainStage():
            source = getattr(data, stage.data)
            parts["shards"] = read.stream(source).fingerprint if source else "collected"
            phases = settings.phases.model_dump()
            parts["phases"] = {key: phases[key] for phase in stage.phases for key in SETTINGS_OF[phase]}
            parts["training"] = [settings.training.clip, precision_for(settings.training.precision)]
            parts["sharing"] = [data.share_prefixes, data.tokens_per_forest, data.max_tokens]
            parts["data"] = [data.features, data.images, data.dialogues_per_record]
        case config.CollectStage():
            parts["shards"] = read.shards("prompts").fingerprint
            parts["annotator"] = identity(settings.annotator)
            parts["generation"] = settings.generation.model_dump()
        case config.EvalStage():
            parts["shards"] = read.shards("eval").fingerprint
            parts["judge"] = identity(settings.judge)
            parts["conditions"] = conditions(settings)
            parts["eval"] = settings.eval.model_dump()
    return parts


def fingerprint(before: str, parts: dict[str, Any]) -> str:
    """Of what was made `before`, and of `parts` beside it."""
    text = before + json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
