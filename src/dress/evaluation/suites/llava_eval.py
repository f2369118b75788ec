"""LLaVA-Eval and LLaVA-Bench: answers scored from 1 to 10 in four aspects, as the paper does."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator
from rich.console import Console

from dress.evaluation.judging import JudgePrompt, Judging, Task, judged
from dress.evaluation.measures import Measure
from dress.evaluation.outcomes import Outcome
from dress.evaluation.questions import Background, Images, Question, question, read_annotations, unique
from dress.evaluation.rows import FileRow, beside, image_key, read_rows
from dress.evaluation.settings import Judged
from dress.evaluation.suite import suite

ASPECTS = ("relevance", "accuracy", "level_of_detail", "helpfulness")
_CATEGORIES = {"conv": "conversation", "detail": "description", "complex": "reasoning"}
"""LLaVA's names of its kinds of questions, and the paper's."""


class LlavaQuestions(Judged):
    """LLaVA's questions, and what the judge is told beside the answers."""

    questions: str  # JSON lines: question_id, image, text, category
    references: str | None = None  # JSON lines: question_id, text: good answers, told to the judge
    context: str | None = None  # JSON lines: image, captions (or caption), instances with boxes: told to the judge
    images: str | None = None  # a folder; without it a server or run answers without seeing the image
    prompt: str  # configs/prompts/<name>.yaml, or a file


class LlavaEval(LlavaQuestions):
    """Answers to LLaVA's questions, scored in four aspects."""

    prompt: str = "llava_eval"


def _meant(value: Any) -> Any:
    """`"7"`, `7.0` and `"7/10"` are the number meant."""
    text = str(value).strip().removesuffix("/10").strip().removesuffix(".0")
    return int(text) if text.isdecimal() else text  # not `value`: True would be a 1


# Every number by name: grammars made from schemas leave out bounds.
Score = Annotated[Literal[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], BeforeValidator(_meant)]


class LlavaScores(BaseModel):
    """Four aspects of an answer; the reason first, so that the scores follow from it."""

    reason: str
    relevance: Score
    accuracy: Score
    level_of_detail: Score
    helpfulness: Score


def _aspect(name: str) -> Measure:
    return Measure(name, name.replace("_", " "), lambda o: (o.facts[name], 1), kind="mean")


MEASURES = (
    Measure("score", "score, 10 × mean of the aspects", lambda o: (sum(o.facts[a] for a in ASPECTS) / len(ASPECTS), 1),
            kind="mean", scale=10),
    *map(_aspect, ASPECTS),
)  # fmt: skip


@suite("llava_eval", LlavaEval, measures=MEASURES)
def llava_eval(settings: LlavaEval, console: Console) -> list[Outcome]:
    """Answers, scored by a judge.

    Raises:
        FileNotFoundError, ValueError: a file that is not there or holds nothing that can be used, or a
            judge that cannot judge this.
    """
    prompt = JudgePrompt.load(settings.prompt)
    return judged(settings, Judging(lambda one: Task(prompt, LlavaScores)), *questions(settings), console)


def questions(settings: LlavaQuestions) -> tuple[list[Question], list[Outcome]]:
    """What is asked, and an outcome for every row that cannot be."""
    images, known = Images(settings.images), read_annotations(settings.context)
    reference = beside(read_rows("references", settings.references) if settings.references else [])
    asked: list[Question] = []
    bad: list[Outcome] = []
    for row in read_rows("questions", settings.questions):
        number, image, text = row.number, row.image, row.text("text", "question")
        reason = row.damage or (None if text else "no question")
        if reason is None and images.lacks(image):
            reason = "image is not in images"
        if reason is not None:
            bad.append(row.failed(reason, category=category_of(row), user=text))
            continue
        annotation = known.get(image_key(image)) if image else None
        answered = reference(row)
        good = None if answered is None else answered.text("text", "answer")
        background = Background(annotation, "helpfulness", good)
        item = f"question/{number}" if number is not None else f"{image or ''}/{text}"
        more = {"number": number, "where": row.where}
        asked.append(question(item, category_of(row), image, text or "", images, background, **more))
    distinct, again = unique(asked)
    return distinct, [*bad, *again]


def category_of(row: FileRow) -> str:
    """The paper's name of a kind of question."""
    name = (row.text("category", "type") or "").removeprefix("llava_bench_")
    return _CATEGORIES.get(name, name)
