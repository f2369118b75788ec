"""self_correction: a good and a bad first answer to a question, each followed by the good and by the bad one."""

from __future__ import annotations

from dress import config
from dress.dialogue.spans import SECOND_ANSWERS, AnswerFacts, Span, SupervisedDialogue, answer, prompt
from dress.phases.preference import questions
from dress.phases.registry import phase
from dress.record import Record


@phase("self_correction", settings=("self_correction",), feedback=True, objectives=("self_correction",))
def self_correction(record: Record, settings: config.Phases) -> list[SupervisedDialogue]:
    """Image, question, first answer, advice, **second answer**: four leaves, where answers have unlike ratings.

    The advice is what was said of the first answer, or one fixed text.
    """
    dialogues = []
    for number, answers in enumerate(questions(record)):
        good, bad = (pick(answers, key=lambda one: one[2]) for pick in (max, min))
        if good[2] == bad[2]:
            continue
        for side, (first, second) in zip(
            SECOND_ANSWERS, ((good, good), (good, bad), (bad, good), (bad, bad)), strict=True
        ):
            dialogue, turn, _ = first
            advice = next((one.refinement for one in turn.feedback if one.refinement), settings.self_correction.prompt)
            spans = (*prompt(dialogue, 0), answer(turn), Span("user", advice), answer(second[1], 1.0))
            facts = AnswerFacts(str(number), side, second[2])
            dialogues.append(SupervisedDialogue("self_correction", spans, record.image is not None, facts))
    return dialogues
