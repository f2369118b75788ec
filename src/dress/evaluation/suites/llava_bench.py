"""LLaVA's relative score: two answers of one question, scored by one judge, read from the review's text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from dress.evaluation.suites.measures import Measure, Suite
from dress.evaluation.suites.outcome import SuiteOutcome, counted
from dress.evaluation.suites.output import finish
from dress.evaluation.suites.reading import Row, read_rows
from dress.evaluation.suites.settings import LlavaBench
from dress.evaluation.suites.stated_scores import stated_scores

_MEASURES = (
    Measure("relative", "relative score, answer 2 of answer 1, %", lambda o: (o.facts["score_2"], o.facts["score_1"]),
            kind="ratio", scale=100, per_cent=False),
    Measure("score_1", "mean score of answer 1", lambda o: (o.facts["score_1"], 1), "mean", None, per_cent=False),
    Measure("score_2", "mean score of answer 2", lambda o: (o.facts["score_2"], 1), "mean", per_cent=False),
)  # fmt: skip


def _prose(outcomes: Sequence[SuiteOutcome]) -> dict[str, Any]:
    """Reviews whose scores do not stand in the first line, as they should, but in prose."""
    return {"from_prose": sum(o.facts["from_prose"] for o in counted(outcomes))}


SUITE = Suite("llava_bench", lambda outcomes: _MEASURES, _prose)


def run(settings: LlavaBench, console: Console) -> dict[str, Any]:
    """`suite=llava_bench`.

    Raises:
        FileNotFoundError, ValueError: a file that is not there or holds no rows, or a judge that cannot
            judge this.
    """
    if settings.reviews is not None:
        return finish(SUITE, outcomes(read_rows("reviews", settings.reviews)), settings, console)
    from dress.evaluation.suites.judging import Judging, Task, judged
    from dress.evaluation.suites.llava_eval import questions
    from dress.evaluation.suites.prompts import JudgePrompt

    task = Task(JudgePrompt.load(settings.prompt), None, lambda asked, answer, review: _facts(review))
    judging = Judging(lambda one: task, lacks=lambda one: None if one.dialogue.reference else "no reference answer")
    asked, bad = questions(settings)
    return judged(SUITE, settings, judging, asked, bad, console)


def outcomes(reviews: Sequence[Row]) -> list[SuiteOutcome]:
    """One outcome per review.

    Args:
        reviews: `content` (or `text`), `question_id`, and perhaps `category`, `reviewer_id`. The
            fields `tuple` and `score`, where somebody's parser left its result, are never read.
    """
    seen: set[str] = set()
    return [_outcome(row, seen) for row in reviews]


def _outcome(row: Row, seen: set[str]) -> SuiteOutcome:
    text, category = row.text("content", "text", "review"), row.text("category") or ""
    key = row.text("question_id", "id", "review_id") or row.where
    judge = row.text("reviewer_id", "judge")

    def failed(reason: str) -> SuiteOutcome:
        return SuiteOutcome(key, category, reason, answer=text, judge=judge, where=row.where)

    if row.damage is not None:
        return failed(row.damage)
    if key in seen:
        return failed("reviewed again")
    seen.add(key)
    if text is None or not text.strip():
        return failed("empty review")
    facts = _facts(text)
    if isinstance(facts, str):
        return failed(facts)
    return SuiteOutcome(key, category, None, facts, answer=text, judge=judge, where=row.where)


def _facts(review: str) -> dict[str, Any] | str:
    read = stated_scores(review)
    if isinstance(read, str):
        return read
    return {"score_1": read[0], "score_2": read[1], "from_prose": read[2], "review": review}
