"""The dialogues that one row of a table holds."""

from __future__ import annotations

from dress.config.rows import RowMapping
from dress.record import REFERENCES, Criterion, Dialogue, Feedback, Turn
from dress.sources.fields import IMAGE_MARK, without_mark
from dress.sources.judged_answers import Answer, answers, criterion_of
from dress.sources.messages import turns_of
from dress.sources.protocol import RowError
from dress.sources.row_cells import RowCells


def dialogues_of(cells: RowCells, mapping: RowMapping, with_image: bool) -> list[Dialogue]:
    """A dialogue for each answer with its feedback, and one that teaches a known good answer; else the open question.

    Args:
        cells: the row.
        mapping: what its columns mean.
        with_image: whether it names one.

    Raises:
        RowError: an answer without a question, or a text, list, rating or criterion that does not fit.
    """
    criterion = criterion_of(cells, mapping)
    system, history, user, last = _asked(cells, mapping)
    if user is None:
        if cells.text("assistant") or cells.text("chosen"):
            raise RowError("no question", f"{cells.name('user')}: expected text beside an answer, got none")
        return []
    texts = [turn.user for turn in history] + [user]
    marks = sum(text.count(IMAGE_MARK) for text in texts)
    if marks > with_image:
        what = "several images" if with_image else "no image named"
        expected = f"expected {IMAGE_MARK} at most once and with an image, got {marks}"
        raise RowError(what, f"{cells.name('user')}: {expected}")
    texts = [without_mark(text) for text in texts]
    if not all(text.strip() for text in texts):
        raise RowError("empty text", f"{cells.name('user')}: expected text, got {user!r:.80}")
    turns = [turn.model_copy(update={"user": text}) for turn, text in zip(history, texts, strict=False)]
    question = Dialogue(criterion=criterion, system=system, turns=[*turns, Turn(user=texts[-1])])
    candidates = answers(cells, mapping, criterion, last)
    references = cells.texts("reference")
    known = next(iter(references), None)
    if not candidates and cells.value("better_answer") is not None:
        known = known or cells.text("better_answer")
    if len(references) > 1 and not history:  # they answer the first question
        question = question.model_copy(update={"extra": {REFERENCES: references}})
    return _answered(question, candidates, known, mapping)


def _asked(cells: RowCells, mapping: RowMapping) -> tuple[str | None, list[Turn], str | None, str | None]:
    """System text, turns before the last, the last user text, and the answer to it that a conversation holds."""
    system = cells.text("system")
    conversation = cells.value("conversations")
    if conversation is None:
        history, user, last = list[Turn](), cells.text("user") or mapping.question, None
    else:
        first, turns = turns_of(conversation, cells.name("conversations"))
        system = system or first
        history, user, last = turns[:-1], turns[-1].user, turns[-1].assistant
    draft = cells.text("draft")
    if draft is None or user is None:
        return system, history, user, last
    advice = cells.text("refinement") or mapping.advice
    if advice is None:
        raise RowError("no advice", f"{cells.name('refinement')}: expected text after a draft, got none")
    return system, [*history, Turn(user=user, assistant=draft)], advice, last


def _answered(question: Dialogue, candidates: list[Answer], known: str | None, mapping: RowMapping) -> list[Dialogue]:
    *history, last = question.turns
    taught = known or next((one.better for one in candidates if one.better), None)
    dialogues = [
        question.model_copy(
            update={
                "criterion": question.criterion or _only(one.feedback),
                "reference": None if history else taught,
                "turns": [*history, *_turns(last, one, mapping)],
            }
        )
        for one in candidates
    ]
    if taught:
        criterion = dialogues[0].criterion if dialogues else question.criterion
        turns = [*history, last.model_copy(update={"assistant": taught})]
        dialogues.append(question.model_copy(update={"criterion": criterion, "turns": turns}))
    return dialogues or [question]


def _turns(question: Turn, one: Answer, mapping: RowMapping) -> list[Turn]:
    """The answered turn, and after advice the better answer."""
    advice = one.advice if one.better else None
    answered = question.model_copy(
        update={
            "assistant": one.text,
            "feedback": [
                comment.model_copy(update={"refinement": comment.refinement or advice}) for comment in one.feedback
            ],
            "provenance": {"responder": one.responder} if one.responder else {},
            "extra": one.extra,
        }
    )
    if one.better is None or advice is None:
        return [answered]
    first = one.feedback[0]
    top = Feedback(
        criterion=first.criterion,
        rating=mapping.better_rating,
        annotator=first.annotator,
        extra={"because": "it is the better answer"},
    )
    return [answered, Turn(user=advice, assistant=one.better, feedback=[top] if one.rated else [])]


def _only(feedback: list[Feedback]) -> Criterion | None:
    """The criterion of all of an answer's feedback, if it is one."""
    criteria = {one.criterion for one in feedback}
    return criteria.pop() if len(criteria) == 1 else None
