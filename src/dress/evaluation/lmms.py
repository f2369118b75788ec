"""A trained run as a model of lmms-eval, so that its tasks run on it (docs/evaluation.md).

    python -m lmms_eval --model dress --model_args run=logs/latest,stage=dress,condition=praise --tasks pope

lmms-eval pins other versions than this project, so it lives in an environment of its own (`make lmms`). It finds this
file by the entry point `lmms_eval.models` of the installed package and imports `dress.evaluation.lmms_model` only when
the model is asked for; nothing of dress imports lmms-eval.
"""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """What lmms-eval's registry wants to know of the model `dress`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="dress", simple_class_path="dress.evaluation.lmms_model.DressModel")
