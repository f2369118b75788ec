"""Visual question answering: short answers beside what people answered (Antol et al., 2015)."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from rich.console import Console

from dress.evaluation.judging import JudgePrompt, Judging, Task, judged
from dress.evaluation.measures import Measure
from dress.evaluation.outcomes import Outcome
from dress.evaluation.questions import Background, Images, Question, question, read_listed, unique
from dress.evaluation.references import accuracy, exact
from dress.evaluation.rows import FileRow, beside
from dress.evaluation.settings import Judged
from dress.evaluation.suite import suite


class VQA(Judged):
    """Short answers beside what people answered."""

    questions: str  # question_id (or id, key), image, question (or text), and perhaps answer(s)
    annotations: str | None = None  # question_id and answers, where they stand apart: VQA's annotations file
    images: str | None = None  # a folder; without it a server or run answers without seeing the image
    prompt: str = "vqa"  # configs/prompts/<name>.yaml, or a file


class Correctness(BaseModel):
    """The judge's word on an answer whose right answers are known."""

    reason: str
    correct: bool


MEASURES = (
    Measure("accuracy", "accuracy", lambda o: (o.facts["accuracy"], 1)),
    Measure("exact_match", "matches some known answer", lambda o: (o.facts["exact_match"], 1)),
)


@suite("vqa", VQA, measures=MEASURES)
def vqa(settings: VQA, console: Console) -> list[Outcome]:
    """The answers to all questions, by VQA's rule or as a judge finds them.

    Raises:
        FileNotFoundError, ValueError: a file that is not there or holds nothing that can be used, or a
            judge that cannot judge this.
    """
    asked, bad, known = questions(settings)
    prompt = JudgePrompt.load(settings.prompt)

    def rules(one: Question, answer: str) -> dict[str, Any]:
        return {"accuracy": accuracy(answer, known[one.item]), "exact_match": exact(answer, known[one.item])}

    def read(one: Question, answer: str, reply: Correctness) -> dict[str, Any]:
        return {**rules(one, answer), "accuracy": float(reply.correct), "reason": reply.reason}

    judging = Judging(lambda one: Task(prompt, Correctness, read), rules, "vqa-1")
    return judged(settings, judging, asked, bad, console)


def questions(settings: VQA) -> tuple[list[Question], list[Outcome], dict[str, list[str]]]:
    """What is asked, an outcome for every row that cannot be, and the known answers by item.

    `questions` holds rows of `question_id` (or `id`, `key`), `image` (or `image_id`), `question` (or `text`) and
    perhaps `answers`, `reference`, `answer` or `label`; `annotations` the answers by that id, or by image and question.
    Both may be VQA's own files.
    """
    images = Images(settings.images)
    listed = read_listed("annotations", settings.annotations, "annotations") if settings.annotations else []
    annotated = beside(listed)
    asked: list[Question] = []
    known: dict[str, list[str]] = {}
    bad = [row.failed(row.damage) for row in listed if row.damage is not None]
    for row in read_listed("questions", settings.questions, "questions"):
        number, image, text = row.number, row.image, row.text("question", "text")
        reason = row.damage or (None if text else "no question")
        labelled = annotated(row) or row
        answers = _answers(labelled)
        if reason is None and not answers:
            reason = "no known answer"
        if reason is None and images.lacks(image):
            reason = "image is not in images"
        category = labelled.text("answer_type", "question_type", "category") or ""
        if reason is not None:
            bad.append(row.failed(reason, category=category, user=text))
            continue
        item = f"question/{number}" if number is not None else f"{image or ''}/{text}"
        background = Background(reference="\n".join(f"- {answer}" for answer in answers))
        known.setdefault(item, answers)
        more = {"number": number, "where": row.where}
        asked.append(question(item, category, image, text or "", images, background, **more))
    distinct, again = unique(asked)
    return distinct, [*bad, *again], known


def _answers(row: FileRow) -> list[str]:
    """Of one row: a list of texts, or of objects as VQA has them, or one text."""
    for name in ("answers", "references", "reference", "answer", "label"):
        value = row.data.get(name)
        listed = value if isinstance(value, list) else [value]
        texts = [item.get("answer") if isinstance(item, dict) else item for item in listed]
        answers = [str(text) for text in texts if isinstance(text, str | int | float)]
        if answers:
            return answers
    return []
