"""distill: an answer without feedback (student) and with it (teacher), for the divergence between the two."""

from __future__ import annotations

from dress import config
from dress.dialogue.spans import STUDENT, TEACHER, AnswerFacts, SupervisedDialogue, answer, prompt
from dress.phases.critique import condition_text, praise
from dress.phases.preference import answers_to_first
from dress.phases.registry import phase
from dress.record import Dialogue, Record, Turn


@phase(
    "distill",
    settings=("distill", "critique", "critique_template", "rating_template", "praise"),
    feedback=True,
    objectives=("distill",),
)
def distill(record: Record, settings: config.Phases) -> list[SupervisedDialogue]:
    """Image, question, **answer**, and the same with a context after the question, for every answer that has one."""
    dialogues = []
    for number, dialogue in enumerate(record.dialogues):
        for place, turn in enumerate(answers_to_first(dialogue)):
            text = _context(dialogue, turn, settings)
            if turn.assistant is None or not text:
                continue
            for side, condition in ((STUDENT, None), (TEACHER, text)):
                spans = (*prompt(dialogue, 0, condition), answer(turn, 1.0))
                facts = AnswerFacts(f"{number}.{place}", side, turn.rating)
                dialogues.append(SupervisedDialogue("distill", spans, record.image is not None, facts))
    return dialogues


def _context(dialogue: Dialogue, turn: Turn, settings: config.Phases) -> str | None:
    """What only the teacher reads; None where the feedback does not say it."""
    own = settings.distill
    match own.under:
        case "praise":
            return praise(settings.critique.condition, settings)
        case "critique":
            return condition_text("critique", settings, turn.critique, None)
        case "refinement":
            advice = next((one.refinement for one in turn.feedback if one.refinement), None)
            return None if advice is None else own.refinement_template.format(refinement=advice)
        case "reference":
            better = dialogue.reference or _better(dialogue, turn)
            return None if better is None else own.reference_template.format(reference=better)


def _better(dialogue: Dialogue, turn: Turn) -> str | None:
    """The best rated other answer to the question, if it is known to be better."""
    if turn.rating is None:
        return None
    rated = [(one.rating, one.assistant) for one in answers_to_first(dialogue) if one.rating is not None]
    best, text = max(rated, key=lambda one: one[0], default=(0, None))
    return text if best > turn.rating else None
