"""Phases: pure functions from a record to supervised dialogues (DESIGN §5).

The phases differ in nothing but these functions; the loss is always the weighted LM loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from dress import config
from dress.dialogue.spans import Span, Supervised
from dress.phases.align import align
from dress.phases.critique import condition_text, critique, rating
from dress.phases.refinement import refinement
from dress.phases.sft import best_of, sft
from dress.record import Record

Phase = Callable[[Record, config.Phases], list[Supervised]]

PHASES: dict[str, Phase] = {
    "align": align,
    "sft": sft,
    "critique": critique,
    "refinement": refinement,
    "rating": rating,
    "best_of": best_of,
}

SETTINGS_OF: dict[str, tuple[str, ...]] = {
    "align": ("align",),
    "sft": (),
    "critique": ("critique", "critique_template", "rating_template"),
    "refinement": ("refinement", "critique", "critique_template", "rating_template", "praise"),
    "rating": ("critique", "rating_template"),
    "best_of": (),
}
"""Which of the `phases` settings each phase reads: what a stage's result depends on."""

__all__ = ["PHASES", "SETTINGS_OF", "Phase", "condition_text", "supervised", "used_settings"]


def used_settings(settings: config.Phases, phases: Iterable[str]) -> config.Phases:
    """The settings that some phases read; all others are empty, so that they cannot count.

    Args:
        settings: of all phases.
        phases: names; one that says nothing of what it reads (`SETTINGS_OF`) reads all.
    """
    everything = tuple(config.Phases.model_fields)
    read = {field for name in phases for field in SETTINGS_OF.get(name, everything)}
    empty = config.Phases(align=config.Align(prompt=""), critique_template="", rating_template="", praise="")
    return settings.model_copy(update={field: getattr(empty, field) for field in everything if field not in read})


def supervised(record: Record, mixture: Mapping[config.PhaseName, float], settings: config.Phases) -> list[Supervised]:
    """All supervised dialogues of a record under a stage's mixture.

    Args:
        record: any record; one without the feedback that a phase needs gives no dialogue of it.
        mixture: phase name to the weight of its tokens in the loss.
        settings: what the phases are told.

    Raises:
        ValueError: a phase gives a span a weight below 0.
    """
    return [
        replace(
            dialogue,
            spans=tuple(replace(span, weight=share * _weight(name, span, record)) for span in dialogue.spans),
        )
        for name, share in mixture.items()
        for dialogue in PHASES[name](record, settings)
    ]


def _weight(phase: str, span: Span, record: Record) -> float:
    if not 0 <= span.weight < math.inf:
        raise ValueError(
            f"phase {phase}, record {record.key}: expected a loss weight of at least 0, got {span.weight} "
            f"(span {span.text[:40]!r})"
        )
    return span.weight
