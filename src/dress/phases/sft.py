"""sft: learn every answer as given; best_of: the same on top-rated answers only (a baseline)."""

from __future__ import annotations

from dress import config
from dress.dialogue.spans import Span, Supervised, answer, opening
from dress.record import TOP_RATING, Record


def sft(record: Record, settings: config.Phases) -> list[Supervised]:
    """Image, user, **assistant**, user, **assistant** … up to the first turn without an answer."""
    dialogues = []
    for dialogue in record.dialogues:
        spans = opening(dialogue)
        for turn in dialogue.turns:
            if turn.assistant is None:
                break
            spans += [Span("user", turn.user), answer(turn, 1.0)]
        if dialogue.turns[0].assistant is not None:
            dialogues.append(Supervised("sft", tuple(spans), record.image is not None))
    return dialogues


def best_of(record: Record, settings: config.Phases) -> list[Supervised]:
    """First user text, **answer**, for every top-rated answer of the dialogue (a baseline)."""
    return [
        Supervised(
            "best_of",
            (*opening(dialogue), Span("user", dialogue.turns[0].user), answer(turn, 1.0)),
            record.image is not None,
        )
        for dialogue in record.dialogues
        for turn in dialogue.turns
        if turn.assistant is not None and turn.rating == TOP_RATING
    ]
