"""refinement: after a user's advice, produce the better answer (paper §3.2, interaction).

The advice is the next turn's user text. Only dialogues that get better, or stay at the top, teach it.
"""

from __future__ import annotations

from dataclasses import replace

from dress import config
from dress.dialogue.spans import Span, SupervisedDialogue, answer, history, messages, prompt
from dress.phases.critique import praise
from dress.phases.registry import phase
from dress.record import TOP_RATING, Dialogue, Record, Turn


@phase(
    "refinement",
    settings=("refinement", "critique", "critique_template", "rating_template", "praise"),
    feedback=True,
    conditioned=True,
)
def refinement(record: Record, settings: config.Phases) -> list[SupervisedDialogue]:
    """Image, user, assistant, advice, **better assistant** …

    `target=best_turn` cuts the dialogue after its best answer; `target=reference` puts the
    dialogue's reference in place of its last answer. `loss` says which answers are learned:
    `refined_only` those that rise above the answer before or stay at the top, `last_only` the last,
    `all` every one, `rating_at_least` those rated `min_rating` or better.

    An answer rated 4 whose advice made it worse is its own better answer: it is learned again in the
    place of the worse one, and after advice that nobody answered yet.

    `anchor` is the weight of the model's own first answers, good and bad alike. They are samples of
    the model that is trained, so at its start their gradient is zero in expectation: they hold in place
    what nobody advised on, while refinement moves the answers after advice. `anchor_conditions` says
    what they stand after: a model that no critique phase taught what praise means takes it for advice.
    """
    dialogues = [*_anchors(record, settings), *_repeated(record)]
    for dialogue in record.dialogues:
        answers, ratings = _chain(dialogue, settings)
        weights = _weights(ratings, settings.refinement)
        if not any(weights):
            continue
        weighted = (replace(reply, weight=weight) for reply, weight in zip(answers, weights, strict=True))
        users = (turn.user for turn in dialogue.turns)
        spans = messages(dialogue.system, zip(users, weighted, strict=False))
        dialogues.append(SupervisedDialogue("refinement", tuple(spans), record.image is not None))
    return dialogues


def _anchors(record: Record, settings: config.Phases) -> list[SupervisedDialogue]:
    """First user text, [praise], **first answer**, of every dialogue of a record that got feedback.

    Also those that nobody could judge: a rater that judges an answer or not by what it says (a harmless request is
    only judged when refused) would else choose which samples are held in place, and the others would drift.
    """
    refinement = settings.refinement
    if not any(turn.rating is not None for dialogue in record.dialogues for turn in dialogue.turns):
        return []
    conditions = {"none": None, "praise": praise(settings.critique.condition, settings)}
    return [
        SupervisedDialogue(
            "refinement",
            (*prompt(dialogue, 0, conditions[name]), answer(dialogue.turns[0], refinement.anchor)),
            record.image is not None,
        )
        for dialogue in record.dialogues
        for name in refinement.anchor_conditions
        if refinement.anchor and dialogue.turns[0].assistant is not None
    ]


def _repeated(record: Record) -> list[SupervisedDialogue]:
    """… top-rated answer, its advice, **the same answer**, where the advice made it worse or nobody answered it yet."""
    dialogues = []
    for dialogue in record.dialogues:
        for number, turn in enumerate(dialogue.turns):
            if turn.assistant is None or turn.rating is None:
                break
            after = dialogue.turns[number + 1] if number + 1 < len(dialogue.turns) else None
            unanswered = after is None or after.assistant is None
            lost = after is not None and after.rating is not None and after.rating < TOP_RATING
            advice = after.user if after else _refinement(turn)
            if turn.rating == TOP_RATING and (lost or unanswered) and advice:
                spans = (*history(dialogue, number + 1), Span("user", advice), answer(turn, 1.0))
                dialogues.append(SupervisedDialogue("refinement", spans, record.image is not None))
    return dialogues


def _refinement(turn: Turn) -> str | None:
    return next((feedback.refinement for feedback in turn.feedback if feedback.refinement), None)


def _chain(dialogue: Dialogue, settings: config.Phases) -> tuple[list[Span], list[int]]:
    """Answers and ratings up to the one to be learned; fewer than two if there is nothing to learn."""
    answers: list[Span] = []
    ratings: list[int] = []
    for turn in dialogue.turns:
        if turn.assistant is None or turn.rating is None:
            break
        answers.append(answer(turn))
        ratings.append(turn.rating)
    if len(answers) < 2:
        return [], []
    if settings.refinement.target == "reference":
        if dialogue.reference is None:
            return [], []
        return [*answers[:-1], Span("assistant", dialogue.reference)], [*ratings[:-1], TOP_RATING]
    best = max(range(1, len(ratings)), key=lambda turn: (ratings[turn], turn))
    return answers[: best + 1], ratings[: best + 1]


def _weights(ratings: list[int], settings: config.Refinement) -> list[float]:
    if len(ratings) < 2 or not _learns(ratings, len(ratings) - 1):
        return []
    match settings.loss:
        case "last_only":
            chosen = [turn == len(ratings) - 1 for turn in range(len(ratings))]
        case "all":
            chosen = [True] * len(ratings)
        case "rating_at_least":
            chosen = [rating >= settings.min_rating for rating in ratings]
        case _:
            chosen = [turn > 0 and _learns(ratings, turn) for turn in range(len(ratings))]
    return [float(take) for take in chosen]


def _learns(ratings: list[int], turn: int) -> bool:
    """Whether the answer at `turn` is better than the one before, or stays at the top."""
    return ratings[turn] > ratings[turn - 1] or ratings[turn] == ratings[turn - 1] == TOP_RATING
