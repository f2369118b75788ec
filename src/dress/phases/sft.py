"""sft: learn every answer as given; best_of: the same on top-rated answers only (a baseline)."""

from __future__ import annotations

from dress import config
from dress.dialogue.spans import Span, Supervised
from dress.record import TOP_RATING, Record


def sft(record: Record, settings: config.Phases) -> list[Supervised]:
    """Image, user, **assistant**, user, **assistant** … up to the first turn without an answer."""
    dialogues = []
    for dialogue in record.dialogues:
        spans: list[Span] = []
        for turn in dialogue.turns:
            if turn.assistant is None:
                break
            spans += [Span("user", turn.user), Span("assistant", turn.assistant, 1.0)]
        if spans:
            dialogues.append(Supervised("sft", tuple(spans), record.image is not None))
    return dialogues


def best_of(record: Record, settings: config.Phases) -> list[Supervised]:
    """First user text, **answer**, for every top-rated answer of the dialogue (a baseline)."""
    return [
        Supervised(
            "best_of",
            (Span("user", dialogue.turns[0].user), Span("assistant", turn.assistant, 1.0)),
            record.image is not None,
        )
        for dialogue in record.dialogues
        for turn in dialogue.turns
        if turn.assistant is not None and turn.rating == TOP_RATING
    ]
