"""Conversations: answer, feedback, and the refinement as the user's next turn."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from dress.base.progress import Advance, ignore
from dress.base.seeding import seed_for
from dress.data.shards import Sample
from dress.rater import Rater, feedback_of_each
from dress.record import PUBLISHED_ROW, Dialogue, Feedback, Record, Turn, up_to_answers
from dress.rollout.responder import Answer, GivenAnswers, Grouping, OpenTurn, Responder, Sampling


@dataclass(frozen=True)
class Rollout:
    """Who answers, who judges, and how answers are drawn.

    Args:
        responder: answers.
        rater: judges every answer; its refinement is the next user text.
        sampling: how answers are drawn.
        seed: of the draws.
    """

    responder: Responder
    rater: Rater
    sampling: Sampling
    seed: int = 0


@dataclass(frozen=True)
class Opening:
    """A dialogue that is to be held.

    Args:
        sample: index of its record among the samples.
        dialogue: whose first user text is asked.
        conditions: condition text of each turn; the dialogue has as many turns, fewer where the rater gives no
            refinement.
    """

    sample: int
    dialogue: Dialogue
    conditions: Sequence[str]


@dataclass(frozen=True)
class Answered:
    """Answers that are to be judged: dialogues that end with them, and their images."""

    items: list[tuple[Record, Dialogue]]
    images: list[bytes | None]


Conversation = Generator[Answered, list[list[Feedback]], list[Dialogue]]
"""Dialogues being held: gives answers, takes all feedback on each of them, and returns the dialogues."""


def conversation(
    rollout: Rollout, samples: Sequence[Sample], openings: Sequence[Opening], answered: Advance = ignore
) -> Conversation:
    """Dialogues over several turns: answer, feedback, answer to the refinement …

    Whoever holds them judges: each time that answers are given, feedback on them is to be sent.

    Args:
        rollout: who answers, and how.
        samples: records with image bytes.
        openings: those of one record should follow one another: they share what is read of the image.
        answered: called with the number of finished answers.

    Returns:
        The dialogues with answers, feedback and provenance, in order. Where no answer could be had, the
        last turn has none, and its provenance says why (`failed`, `call`).
    """
    responder, sampling = rollout.responder, rollout.sampling
    if isinstance(responder, GivenAnswers):
        return (yield from _given(samples, openings))
    pixels, places = _preprocess(responder, samples)
    dialogues = [_first_question(opening.dialogue) for opening in openings]
    number = len(dialogues)
    groups = responder.groups(number, sampling) if isinstance(responder, Grouping) else [(range(number), responder)]
    for group, answering in groups:
        active, turn = list(group), 0
        while active:
            questions = [
                OpenTurn(
                    samples[openings[i].sample][0], dialogues[i], places[openings[i].sample],
                    openings[i].conditions[turn], seed_for(rollout.seed, turn, i),
                )
                for i in active
            ]  # fmt: skip
            answers = answering.answer(questions, pixels, sampling, answered)
            for i, answer in zip(active, answers, strict=True):
                last = dialogues[i].turns[-1]
                dialogues[i].turns[-1] = last.model_copy(update=answer_fields(answer, responder.name))
            active = [i for i, answer in zip(active, answers, strict=True) if isinstance(answer, str)]
            feedback = yield Answered(
                [(samples[openings[i].sample][0], dialogues[i]) for i in active],
                [samples[openings[i].sample][1] for i in active],
            )
            turn += 1
            refinements = {}
            for i, words in zip(active, feedback, strict=True):
                dialogues[i].turns[-1].feedback.extend(words)
                refinement = next((one.refinement for one in words if one.refinement), None)
                if refinement and turn < len(openings[i].conditions):
                    refinements[i] = refinement
            for i, refinement in refinements.items():
                dialogues[i].turns.append(Turn(user=refinement))
            active = list(refinements)
    return dialogues


def converse(
    rollout: Rollout, samples: Sequence[Sample], openings: Sequence[Opening], *,
    answered: Advance = ignore, judged: Advance = ignore,
) -> list[Dialogue]:  # fmt: skip
    """Hold dialogues, one turn after the other; see `conversation`.

    Args:
        rollout: who answers and who judges.
        samples: records with image bytes.
        openings: of the dialogues.
        answered: called with the number of finished answers.
        judged: called with the number of judged answers.
    """
    talk = conversation(rollout, samples, openings, answered)
    feedback: list[list[Feedback]] | None = None
    while True:
        try:
            answers = next(talk) if feedback is None else talk.send(feedback)
        except StopIteration as end:
            return list(end.value)
        feedback = feedback_of_each(rollout.rater, answers.items, answers.images, judged)


def _given(samples: Sequence[Sample], openings: Sequence[Opening]) -> Conversation:
    """The dialogues as they stand, each answer with new feedback in the place of all that it had.

    An answer is judged after its own turns. What has no answer fails by name.
    """
    dialogues = [opening.dialogue.model_copy(update={"turns": _unjudged(opening.dialogue)}) for opening in openings]
    answered = [
        (samples[opening.sample], answer)
        for opening, dialogue in zip(openings, dialogues, strict=True)
        for answer in up_to_answers(dialogue)
    ]
    feedback = yield Answered([(record, one) for (record, _), one in answered], [image for (_, image), _ in answered])
    for (_, dialogue), words in zip(answered, feedback, strict=True):
        dialogue.turns[-1].feedback.extend(words)
    return dialogues


def _unjudged(dialogue: Dialogue) -> list[Turn]:
    turns = [turn.model_copy(update={"feedback": []}) for turn in dialogue.turns]
    for turn in turns:
        if turn.assistant is None:
            turn.provenance = {"failed": "no_answer", **turn.provenance}
    return turns


def _first_question(dialogue: Dialogue) -> Dialogue:
    """Its first question, without what an importer kept of the published row: that is about other answers."""
    extra = {name: value for name, value in dialogue.extra.items() if name != PUBLISHED_ROW}
    return dialogue.model_copy(update={"turns": [Turn(user=dialogue.turns[0].user)], "extra": extra})


def answer_fields(answer: Answer, responder: str) -> dict[str, Any]:
    """The fields of a turn that the answer fills."""
    if isinstance(answer, str):
        reason = getattr(answer, "finish_reason", None)
        end = {} if reason is None else {"finish_reason": reason}
        return {"assistant": str(answer), "provenance": {"responder": responder, **end}}
    call = {} if answer.call is None else {"call": answer.call}
    return {"provenance": {"responder": responder, "failed": answer.reason, **call}}


def _preprocess(responder: Responder, samples: Sequence[Sample]) -> tuple[list[Any], list[int | None]]:
    """What the responder needs of the images, and where among it each sample's image is."""
    pixels: list[Any] = []
    places: list[int | None] = []
    for record, image in samples:
        places.append(None if image is None else len(pixels))
        if image is not None:
            pixels.append(responder.preprocess(image, record.key))
    return pixels, places
