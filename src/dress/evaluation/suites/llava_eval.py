"""LLaVA-Eval and LLaVA-Bench: answers scored from 1 to 10 in four aspects, as the paper does."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from dress.evaluation.suites.asked import Asked, Images, question, read_annotations, unique
from dress.evaluation.suites.judging import Judging, Task, judged
from dress.evaluation.suites.measures import Measure, Suite
from dress.evaluation.suites.outcome import SuiteOutcome
from dress.evaluation.suites.prompts import LlavaScores, load_prompt
from dress.evaluation.suites.reading import Row, image_key, read_rows
from dress.evaluation.suites.settings import LlavaEval, LlavaQuestions

ASPECTS = ("relevance", "accuracy", "level_of_detail", "helpfulness")
_CATEGORIES = {"conv": "conversation", "detail": "description", "complex": "reasoning"}
"""LLaVA's names of its kinds of questions, and the paper's."""


def _aspect(name: str) -> Measure:
    return Measure(name, name.replace("_", " "), lambda o: (o.facts[name], 1), kind="mean", per_cent=False)


_MEASURES = (
    Measure("score", "score, 10 × mean of the aspects", lambda o: (sum(o.facts[a] for a in ASPECTS) / len(ASPECTS), 1),
            kind="mean", scale=10, per_cent=False),
    *map(_aspect, ASPECTS),
)  # fmt: skip
SUITE = Suite("llava_eval", lambda outcomes: _MEASURES)


def run(settings: LlavaEval, console: Console) -> dict[str, Any]:
    """`suite=llava_eval`.

    Raises:
        FileNotFoundError, ValueError: a file that is not there or holds nothing that can be used, or a
            judge that cannot judge this.
    """
    asked, bad = questions(settings)
    prompt = load_prompt(settings.prompt)
    return judged(SUITE, settings, Judging(lambda one: Task(prompt, LlavaScores)), asked, bad, console)


def questions(settings: LlavaQuestions) -> tuple[list[Asked], list[SuiteOutcome]]:
    """What is asked, and an outcome for every row that cannot be."""
    images, known = Images(settings.images), read_annotations(settings.context)
    references = {
        str(row.text("question_id", "id")): row.text("text", "answer")
        for row in (read_rows("references", settings.references) if settings.references else [])
    }
    asked: list[Asked] = []
    bad: list[SuiteOutcome] = []
    for row in read_rows("questions", settings.questions):
        number, image, text = row.text("question_id", "id"), row.text("image", "image_id"), row.text("text", "question")
        reason = row.damage or (None if number and text else "question without question_id or text")
        if reason is None and images.lacks(image):
            reason = "image is not in images"
        if reason is not None:
            bad.append(SuiteOutcome(row.where, category_of(row), reason, user=text, where=row.where))
            continue
        asked.append(
            question(
                f"question/{number}", category_of(row), image, text or "", images, criterion="helpfulness",
                reference=references.get(str(number)), annotation=known.get(image_key(image)) if image else None,
                number=number, where=row.where,
            )
        )  # fmt: skip
    kept, again = unique(asked)
    return kept, [*bad, *again]


def category_of(row: Row) -> str:
    """The paper's name of a kind of question."""
    name = (row.text("category", "type") or "").removeprefix("llava_bench_")
    return _CATEGORIES.get(name, name)
