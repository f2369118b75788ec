"""LLaVA's relative score: two answers of one question, scored by one judge, read from the review's text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import model_validator
from rich.console import Console

from dress.config.raters import ResponderName
from dress.evaluation.judging import JudgePrompt, Judging, Task, judged
from dress.evaluation.measures import Measure
from dress.evaluation.outcomes import Outcome, counted
from dress.evaluation.rows import FileRow, read_rows
from dress.evaluation.stated_scores import stated_scores
from dress.evaluation.suite import suite
from dress.evaluation.suites.llava_eval import LlavaQuestions, questions


class LlavaBench(LlavaQuestions):
    """Reviews of two answers by one judge, as LLaVA writes them."""

    reviews: str | None = None  # JSON lines: question_id, content (or text), category
    responder: ResponderName | None = None  # type: ignore[assignment]  # optional here: instead of reviews, who answers
    questions: str | None = None  # type: ignore[assignment]  # optional here: instead of reviews, what is asked
    prompt: str = "review"

    @model_validator(mode="after")
    def _one_source(self) -> LlavaBench:
        if (self.reviews is None) == (self.responder is None):
            raise ValueError(
                "expected one of reviews (a file) and responder (a file, a run folder, a server's address)"
            )
        if self.responder is not None and (self.questions is None or self.references is None):
            raise ValueError("responder needs questions and references, the answers of assistant 1")
        return self


MEASURES = (
    Measure("relative", "relative score, answer 2 of answer 1, %", lambda o: (o.facts["score_2"], o.facts["score_1"]),
            kind="ratio", scale=100),
    Measure("score_1", "mean score of answer 1", lambda o: (o.facts["score_1"], 1), "mean", None),
    Measure("score_2", "mean score of answer 2", lambda o: (o.facts["score_2"], 1), "mean"),
)  # fmt: skip


def _prose(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Reviews whose scores do not stand in the first line, as they should, but in prose."""
    return {"from_prose": sum(o.facts["from_prose"] for o in counted(outcomes))}


@suite("llava_bench", LlavaBench, measures=MEASURES, more=_prose)
def llava_bench(settings: LlavaBench, console: Console) -> list[Outcome]:
    """The scores that reviews state, of a file or written now.

    Raises:
        FileNotFoundError, ValueError: a file that is not there or holds no rows, or a judge that cannot
            judge this.
    """
    if settings.reviews is not None:
        return outcomes(read_rows("reviews", settings.reviews))
    task = Task(JudgePrompt.load(settings.prompt), None, lambda question, answer, review: _facts(review))
    judging = Judging(lambda one: task, lacks=lambda one: None if one.dialogue.reference else "no reference answer")
    return judged(settings, judging, *questions(settings), console)


def outcomes(reviews: Sequence[FileRow]) -> list[Outcome]:
    """One outcome per review.

    Args:
        reviews: `content` (or `text`), `question_id`, and perhaps `category`, `reviewer_id`. The
            fields `tuple` and `score`, where somebody's parser left its result, are never read.
    """
    seen: set[str] = set()
    return [_outcome(row, seen) for row in reviews]


def _outcome(row: FileRow, seen: set[str]) -> Outcome:
    text, category = row.text("content", "text", "review"), row.text("category") or ""
    item = row.text("question_id", "id", "review_id") or row.where
    judge = row.text("reviewer_id", "judge")

    def failed(reason: str) -> Outcome:
        return row.failed(reason, item=item, category=category, answer=text, judge=judge)

    if row.damage is not None:
        return failed(row.damage)
    if item in seen:
        return failed("reviewed again")
    seen.add(item)
    if text is None or not text.strip():
        return failed("empty review")
    facts = _facts(text)
    if isinstance(facts, str):
        return failed(facts)
    return Outcome(item=item, category=category, facts=facts, answer=text, judge=judge, where=row.where)


def _facts(review: str) -> dict[str, Any] | str:
    scores = stated_scores(review)
    if isinstance(scores, str):
        return scores
    return {"score_1": scores[0], "score_2": scores[1], "from_prose": scores[2], "review": review}
