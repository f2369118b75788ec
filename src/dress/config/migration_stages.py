"""Curricula of 0.1 (`order`, `budget`) as those of today, where stages name what they use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FEEDBACK = {"critique", "refinement", "rating", "best_of"}
"""Phases of 0.1 that learn from feedback."""


def migrate_curriculum(old: Mapping[str, Any]) -> dict[str, Any]:
    """The section `curriculum` of a whole configuration of 0.1, as it is written today.

    The order becomes names: a train stage goes on from the one before it, a collect stage asks the train stage before
    it, `data: feedback` without `data.feedback` reads the nearest collect stage before, an eval stage without `models`
    evaluates the last stage before feedback, each that learned from it, and the last. Stages outside of the order are
    left out. `budget` was read by the stages, which hold its values: it goes.

    Args:
        old: `config.json` of a run, or the composed settings, with values in place of `${budget.…}`.

    Returns:
        `run` and `stages`; what is no curriculum of 0.1 is returned as it is.
    """
    curriculum = dict(old.get("curriculum") or {})
    if "order" not in curriculum:
        return curriculum
    order, stages = list(curriculum["order"]), curriculum.get("stages") or {}
    has_feedback = (old.get("data") or {}).get("feedback") is not None
    migrated = {
        name: _stage(name, order[: order.index(name)], stages, has_feedback) for name in order if name in stages
    }
    return {"run": order, "stages": migrated}


def _stage(name: str, before: Sequence[str], stages: Mapping[str, Any], has_feedback: bool) -> dict[str, Any]:
    """One stage.

    Args:
        name: of the stage.
        before: the stages before it, in order.
        stages: of 0.1.
        has_feedback: whether `data.feedback` says where feedback is.
    """
    stage = dict(stages[name])
    trained = [one for one in before if _kind(stages, one) == "train"]
    collected = [one for one in before if _kind(stages, one) == "collect"]
    match _kind(stages, name):
        case "train":
            stage["weights"] = trained[-1] if trained else None
            if stage.get("data") == "feedback" and collected and not has_feedback:
                stage["data"] = collected[-1]
        case "collect":
            stage |= {"model": trained[-1] if trained else "", "data": "prompts"}
        case "eval":
            stage |= {"models": stage.get("models") or _evaluated(trained, stages), "data": "eval"}
    return stage


def _evaluated(trained: Sequence[str], stages: Mapping[str, Any]) -> dict[str, str]:
    """Whose models an eval stage without `models` evaluated."""
    learned = [name for name in trained if _learned(stages[name])]
    before = trained[: trained.index(learned[0])] if learned else trained
    return {name: name for name in [*before[-1:], *learned, *trained[-1:]]}


def _learned(stage: Mapping[str, Any]) -> bool:
    return stage.get("data") == "feedback" or bool(FEEDBACK & set(stage.get("phases") or {}))


def _kind(stages: Mapping[str, Any], name: str) -> str | None:
    stage = stages.get(name)
    return stage.get("kind") if isinstance(stage, Mapping) else None
