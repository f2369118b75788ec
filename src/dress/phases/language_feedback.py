"""critic, advised, improved: learning from language feedback as Align-Anything does (Ji et al., 2024, 2412.15838).

A critic says what is good and bad about an answer (f | x, y); the model answers better when it is told (z | x, f); and
the better answer is preferred to the one that was criticised (dpo of z over y, after x).
"""

from __future__ import annotations

from collections.abc import Iterator

from dress import config
from dress.dialogue.spans import BETTER, WORSE, AnswerFacts, Span, SupervisedDialogue, answer, prompt
from dress.phases.preference import answers_to_first
from dress.phases.registry import phase
from dress.record import Dialogue, Record, Turn


@phase("critic", settings=("language_feedback",), feedback=True)
def critic(record: Record, settings: config.Phases) -> list[SupervisedDialogue]:
    """Image, question, answer, a fixed question about it, **critique**."""
    return [
        SupervisedDialogue(
            "critic",
            (
                *prompt(dialogue, 0), answer(turn), Span("user", settings.language_feedback.critic_prompt),
                Span("assistant", turn.critique, 1.0),
            ),
            record.image is not None,
        )
        for dialogue in record.dialogues
        for turn in answers_to_first(dialogue)
        if turn.assistant is not None and turn.critique
    ]  # fmt: skip


@phase("advised", settings=("language_feedback",), feedback=True)
def advised(record: Record, settings: config.Phases) -> list[SupervisedDialogue]:
    """Image, question, critique of an earlier answer, **better answer**."""
    template = settings.language_feedback.template
    return [
        SupervisedDialogue(
            "advised",
            (*prompt(dialogue, 0, template.format(critique=turn.critique)), answer(better, 1.0)),
            record.image is not None,
        )
        for dialogue in record.dialogues
        for turn, better in _improved(dialogue)
        if turn.critique
    ]


@phase("improved", settings=("language_feedback",), feedback=True, objectives=("dpo",))
def improved(record: Record, settings: config.Phases) -> list[SupervisedDialogue]:
    """Image, question, **answer**: a criticised answer and the better one that followed it, a pair each."""
    dialogues = []
    for number, dialogue in enumerate(record.dialogues):
        for place, pair in enumerate(_improved(dialogue)):
            for side, turn in zip((WORSE, BETTER), pair, strict=True):
                spans = (*prompt(dialogue, 0), answer(turn, 1.0))
                facts = AnswerFacts(f"{number}.{place}", side, turn.rating)
                dialogues.append(SupervisedDialogue("improved", spans, record.image is not None, facts))
    return dialogues


def _improved(dialogue: Dialogue) -> Iterator[tuple[Turn, Turn]]:
    """An answer and the best rated one behind it, where that is better."""
    turns = [turn for turn in answers_to_first(dialogue) if turn.assistant is not None and turn.rating is not None]
    for number, turn in enumerate(turns):
        best = max(turns[number + 1 :], key=lambda one: one.rating or 0, default=turn)
        if (best.rating or 0) > (turn.rating or 0):
            yield turn, best
