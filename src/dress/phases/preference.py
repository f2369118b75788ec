"""preference: rated answers to one question, for an objective that compares them (`dpo`, `kto`, `reward_weighted`)."""

from __future__ import annotations

from collections.abc import Iterator

from dress import config
from dress.dialogue.spans import AnswerFacts, SupervisedDialogue, answer, prompt
from dress.phases.critique import praise
from dress.phases.registry import phase
from dress.record import Dialogue, Record, Turn

Rated = tuple[Dialogue, Turn, int]
"""An answer of a dialogue, to its first question, and its rating."""


@phase(
    "preference",
    settings=("preference", "critique", "critique_template", "rating_template", "praise"),
    feedback=True,
    objectives=("dpo", "kto", "reward_weighted", "lm"),
)
def preference(record: Record, settings: config.Phases) -> list[SupervisedDialogue]:
    """Image, question, [praise], **answer**, for every rated answer; those to one question are a group."""
    own = settings.preference
    text = praise(settings.critique.condition, settings) if own.condition == "praise" else None
    dialogues = []
    for number, answers in enumerate(questions(record, own.turns)):
        for dialogue, turn, rating in answers:
            spans = (*prompt(dialogue, 0, text), answer(turn, 1.0))
            facts = AnswerFacts(str(number), rating=rating)
            dialogues.append(SupervisedDialogue("preference", spans, record.image is not None, facts))
    return dialogues


def questions(record: Record, turns: str = "all") -> list[list[Rated]]:
    """Rated answers of a record by question (system text, criterion and first user text); equal texts count once.

    Args:
        record: any.
        turns: `first`, or `all`: an answer after advice is another one to the first question.
    """
    groups: dict[tuple[str | None, str | None, str], dict[str, Rated]] = {}
    for dialogue in record.dialogues:
        question = (dialogue.system, dialogue.criterion, dialogue.turns[0].user)
        for turn in list(answers_to_first(dialogue))[: 1 if turns == "first" else None]:
            if turn.assistant is None or turn.rating is None:
                continue
            known = groups.setdefault(question, {})
            earlier = known.get(turn.assistant)
            if earlier is None or earlier[2] > turn.rating:  # who rates one text twice means the lower rating
                known[turn.assistant] = (dialogue, turn, turn.rating)
    return [list(known.values()) for known in groups.values()]


def answers_to_first(dialogue: Dialogue) -> Iterator[Turn]:
    """The first turn, and those that answer advice on the turn before; not what another question asks."""
    before: Turn | None = None
    for turn in dialogue.turns:
        if before is not None and turn.user not in {feedback.refinement for feedback in before.feedback}:
            return
        yield turn
        before = turn
