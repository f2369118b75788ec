"""Phases: pure functions from a record to supervised dialogues.

The phases differ in nothing but these functions; what becomes of their answers is for an objective to say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from dress import config
from dress.dialogue.spans import ROLES, Span, SupervisedDialogue
from dress.phases.align import align
from dress.phases.critique import condition_text, critique, rating
from dress.phases.distill import distill
from dress.phases.language_feedback import advised, critic, improved
from dress.phases.preference import preference
from dress.phases.refinement import refinement
from dress.phases.registry import PHASES, Phase, check_phases, find_phase, phase, used_settings
from dress.phases.self_correction import self_correction
from dress.phases.sft import best_of, sft
from dress.record import Record

__all__ = [
    "PHASES",
    "Phase",
    "advised",
    "align",
    "best_of",
    "check_phases",
    "condition_text",
    "critic",
    "critique",
    "distill",
    "improved",
    "phase",
    "preference",
    "rating",
    "refinement",
    "self_correction",
    "sft",
    "supervised",
    "used_settings",
]


def supervised(record: Record, mixture: Mapping[str, float], settings: config.Phases) -> list[SupervisedDialogue]:
    """All supervised dialogues of a record under a stage's mixture.

    Args:
        record: any record; one without the feedback that a phase needs gives no dialogue of it.
        mixture: phase name to the weight of its tokens in the loss.
        settings: of the phases.

    Raises:
        ValueError: no such phase, or one that gives something else than supervised dialogues, a span of no role or
            a weight below 0.
    """
    return [
        replace(
            dialogue,
            phase=name,
            spans=tuple(replace(span, weight=share * _weight(name, span, record)) for span in dialogue.spans),
        )
        for name, share in mixture.items()
        for dialogue in _dialogues(name, record, settings)
    ]


def _dialogues(phase: str, record: Record, settings: config.Phases) -> list[SupervisedDialogue]:
    dialogues = find_phase(phase, settings.modules)(record, settings)
    for one in dialogues:
        if not isinstance(one, SupervisedDialogue) or not all(isinstance(span, Span) for span in one.spans):
            raise ValueError(f"phase {phase}: expected SupervisedDialogue of Span, got {one!r:.120}")
        for role in (span.role for span in one.spans):
            if role not in ROLES:
                raise ValueError(f"phase {phase}: expected a span's role to be one of {', '.join(ROLES)}, got {role!r}")
    return dialogues


def _weight(phase: str, span: Span, record: Record) -> float:
    if not 0 <= span.weight < math.inf:
        raise ValueError(
            f"phase {phase}, record {record.key}: expected a loss weight of at least 0, got {span.weight} "
            f"(span {span.text[:40]!r})"
        )
    return span.weight
