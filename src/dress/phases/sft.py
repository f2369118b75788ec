"""sft: learn every answer as given; best_of: the same on top-rated answers only (a baseline)."""

from __future__ import annotations

from itertools import takewhile

from dress import config
from dress.dialogue.spans import SupervisedDialogue, answer, history, prompt
from dress.phases.registry import phase
from dress.record import TOP_RATING, Record


@phase("sft", settings=("sft",))
def sft(record: Record, settings: config.Phases) -> list[SupervisedDialogue]:
    """Image, user, **assistant**, user, **assistant** … up to the first turn without an answer."""
    dialogues = []
    for dialogue in record.dialogues:
        answered = sum(1 for _ in takewhile(lambda turn: turn.assistant is not None, dialogue.turns))
        if answered:
            spans = history(dialogue, answered, 1.0, settings.sft.marked_weight)
            dialogues.append(SupervisedDialogue("sft", tuple(spans), record.image is not None))
    return dialogues


@phase("best_of", settings=("sft",), feedback=True)
def best_of(record: Record, settings: config.Phases) -> list[SupervisedDialogue]:
    """First user text, **answer**, for every top-rated answer of the dialogue (a baseline)."""
    return [
        SupervisedDialogue(
            "best_of",
            (*prompt(dialogue, 0), answer(turn, 1.0, settings.sft.marked_weight)),
            record.image is not None,
        )
        for dialogue in record.dialogues
        for turn in dialogue.turns
        if turn.assistant is not None and turn.rating == TOP_RATING
    ]
