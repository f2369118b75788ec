"""A model's folder as it is asked: exported by DRESS, or any of transformers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dress import config
from dress.data.images import MAX_ASPECT
from dress.model.export_facts import read_export
from dress.model.hf import HFLVLM
from dress.rollout.checkpoint import CkptResponder

LONGEST = 512
"""Tokens of an answer, where the folder does not say."""


@dataclass(frozen=True)
class FolderModel:
    """A model that can be asked.

    Attributes:
        responder: answers; the condition comes with each question, as of a run's model.
        conditions: name to text.
        condition: name of the one it is meant to be asked under.
        advice_condition: name of the one under which it follows advice.
        max_new_tokens: longest answer.
    """

    responder: CkptResponder = field(repr=False)
    conditions: dict[str, str]
    condition: str
    advice_condition: str
    max_new_tokens: int


def open_model(folder: Path, device: str, keep_cache: config.KeepCache = "auto") -> FolderModel:
    """Load a model and what is known of its conditions.

    Args:
        folder: of transformers' files, merged or an adapter.
        device: where the model goes.
        keep_cache: see `CkptResponder`.

    Raises:
        ValueError: it does not load, or its dress.json is damaged; names it.
    """
    facts = read_export(folder)
    model = HFLVLM(config.HFModel(kind="hf", name=str(folder))).eval().to(device)
    if facts is None:
        responder = CkptResponder(model, folder.resolve().name, keep_cache, MAX_ASPECT)
        return FolderModel(responder, {"none": ""}, "none", "none", LONGEST)
    condition = facts.condition or "none"
    under = "" if condition == "none" else f" ({condition})"
    responder = CkptResponder(model, f"{facts.run}/{facts.stage}{under}", keep_cache, MAX_ASPECT)
    return FolderModel(responder, dict(facts.conditions), condition, facts.advice_condition, facts.max_new_tokens)
