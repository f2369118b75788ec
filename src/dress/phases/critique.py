"""critique: the plain LM loss on answers, good and bad alike, **conditioned on** their feedback (paper §3.2).

The condition stands after image and user text (ours), follows the last user text only and never
stands in history. At inference the model is conditioned on a praising critique.
"""

from __future__ import annotations

from typing import Literal

from dress import config
from dress.dialogue.spans import SupervisedDialogue, answer, prompt
from dress.phases.registry import phase
from dress.record import TOP_RATING, Record

Form = Literal["critique", "rating", "both"]


@phase("critique", settings=("critique", "critique_template", "rating_template"), feedback=True, conditioned=True)
def critique(record: Record, settings: config.Phases) -> list[SupervisedDialogue]:
    """Image, [history], user, condition, **assistant**, for every answer that has the feedback."""
    return _conditioned("critique", record, settings, settings.critique.condition)


@phase("rating", settings=("critique", "rating_template"), feedback=True, conditioned=True)
def rating(record: Record, settings: config.Phases) -> list[SupervisedDialogue]:
    """The same, conditioned on the number only (a baseline)."""
    return _conditioned("rating", record, settings, "rating")


def condition_text(form: Form, settings: config.Phases, critique: str | None, rating: int | None) -> str | None:
    """The text that conditions an answer, or None where the feedback lacks what `form` needs."""
    parts = []
    if form in ("rating", "both"):
        if rating is None:
            return None
        parts.append(settings.rating_template.format(rating=rating))
    if form in ("critique", "both"):
        if not critique or critique.isspace():
            return None
        parts.append(settings.critique_template.format(critique=critique))
    return " ".join(parts)


def praise(form: Form, settings: config.Phases) -> str:
    """The text that inference is conditioned on under `praise`."""
    text = condition_text(form, settings, settings.praise, TOP_RATING)
    assert text is not None
    return text


def _conditioned(name: str, record: Record, settings: config.Phases, form: Form) -> list[SupervisedDialogue]:
    dialogues = []
    for dialogue in record.dialogues:
        for number, turn in enumerate(dialogue.turns):
            condition = condition_text(form, settings, turn.critique, turn.rating)
            if condition is None or turn.assistant is None:
                continue
            before = prompt(dialogue, number if settings.critique.history else 0, condition)
            spans = (*before, answer(turn, 1.0, settings.critique.marked_weight))
            dialogues.append(SupervisedDialogue(name, spans, record.image is not None))
    return dialogues
