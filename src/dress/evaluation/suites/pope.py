"""POPE: yes/no questions about objects, joined by (image, question) and never by position."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console

from dress.evaluation.suites.measures import Measure, Suite
from dress.evaluation.suites.outcome import SuiteOutcome, counted
from dress.evaluation.suites.output import finish
from dress.evaluation.suites.reading import Row, first_line, image_key, read_rows
from dress.evaluation.suites.settings import Pope
from dress.mentions import normal
from dress.progress import CurriculumProgress

Key = tuple[str, str]
"""Image and question."""
_BOTH = "yes and no"


def said(answer: str) -> str:
    """`no` or `yes` by POPE's rule: no, where the first sentence holds "no" or "not"; else yes."""
    words = answer.partition(".")[0].replace(",", "").casefold().split()
    return "no" if {"no", "not"} & set(words) else "yes"


def _is(outcome: SuiteOutcome, fact: str, value: str = "yes") -> int:
    return int(outcome.facts[fact] == value)


def _hit(outcome: SuiteOutcome) -> int:
    return _is(outcome, "label") * _is(outcome, "said")


_MEASURES = (
    Measure("accuracy", "accuracy", lambda o: (o.facts["said"] == o.facts["label"], 1)),
    Measure("precision", "precision", lambda o: (_hit(o), 1) if _is(o, "said") else None),
    Measure("recall", "recall", lambda o: (_hit(o), 1) if _is(o, "label") else None),
    Measure("f1", "F1", lambda o: (2 * _hit(o), _is(o, "said") + _is(o, "label")), kind="ratio"),
    Measure("yes_share", "says yes", lambda o: (_is(o, "said"), 1), up=None),
)


def _unclear(outcomes: Sequence[SuiteOutcome]) -> dict[str, Any]:
    """Answers that say neither yes nor no; POPE's rule takes them for yes."""
    return {"unclear": sum(o.facts["unclear"] for o in counted(outcomes))}


SUITE = Suite("pope", lambda outcomes: _MEASURES, _unclear)


def run(settings: Pope, console: Console) -> dict[str, Any]:
    """`suite=pope`.

    Raises:
        FileNotFoundError, ValueError: a file that is not there or holds no rows.
    """
    labels = [row for path in settings.label_files for row in read_rows("labels", path)]
    questions = read_rows("questions", settings.questions) if settings.questions else []
    if settings.answers is not None:
        found = outcomes(questions, labels, read_rows("answers", settings.answers))
    else:
        found = _ask(settings, questions, labels, console)
    return finish(SUITE, found, settings, console)


def _ask(settings: Pope, questions: Sequence[Row], labels: Sequence[Row], console: Console) -> list[SuiteOutcome]:
    """Outcomes of a responder's answers to the questions; to the labels' own where there are none."""
    from dress.evaluation.suites.answering import Asker
    from dress.evaluation.suites.asked import Images, question

    images, asker = Images(settings.images), Asker(settings)
    rows: list[Row] = []
    asked = []
    lacking: list[Row] = []
    for row in questions or labels:
        image, text = row.text("image", "image_id"), row.text("text", "question")
        if row.damage is not None or image is None or not text:
            continue  # `outcomes` names it
        if images.lacks(image):
            lacking.append(Row(row.where, {**row.data, "prompt": text}, "image is not in images"))
            continue
        rows.append(row)
        number, category = row.text("question_id", "id"), row.text("category") or ""
        asked.append(question(row.where, category, image, text, images, number=number, where=row.where))
    found: list[SuiteOutcome] = []
    with CurriculumProgress(console, {}) as progress:
        for run_ in range(settings.runs if asker.repeats else 1):
            progress.start("answer", len(asked))
            given = asker.ask(asked, run_, progress.advance)
            progress.end()
            answers = [
                Row(row.where, {**row.data, "prompt": one.user, "text": text if isinstance(text, str) else ""},
                    None if isinstance(text, str) else text.reason)
                for row, one, text in zip(rows, asked, given.answers, strict=True)
            ]  # fmt: skip
            one_run = outcomes(questions, labels, [*answers, *lacking])
            found += [replace(outcome, run=run_, responder=given.responder) for outcome in one_run]
    return found


@dataclass(frozen=True)
class _Question:
    image: str
    text: str
    category: str


def outcomes(questions: Sequence[Row], labels: Sequence[Row], answers: Sequence[Row]) -> list[SuiteOutcome]:
    """One outcome per answer, per labelled question without answer, and per row that cannot be used.

    Args:
        questions: `question_id, image, text` (first line: the question), `category`.
        labels: `image, text, label`.
        answers: `question_id, prompt, text`; or `image` and `question` of their own, without question_id.
    """
    bad: list[SuiteOutcome] = []
    asked = _questions(questions, bad)
    known = _labels(labels, bad)
    answered: dict[tuple[Key, str], str] = {}
    found = [_outcome(row, asked, known, answered) for row in answers]
    reached, category = {key for key, _ in answered}, _categories(asked)
    missing = (
        SuiteOutcome(_name(key), category.get(key, ""), "no answer", {"label": label}, user=key[1], where=where)
        for key, (label, where) in known.items()
        if key not in reached
    )
    return [*bad, *found, *missing]


def _outcome(
    row: Row,
    asked: dict[str, _Question | None],
    known: dict[Key, tuple[str, str]],
    answered: dict[tuple[Key, str], str],
) -> SuiteOutcome:
    number, answer = row.text("question_id", "id"), row.text("text", "answer", "output")
    question = asked.get(number) if number is not None else None
    image = row.text("image", "image_id") or (question.image if question else None)
    text = first_line(row.text("prompt", "question") or (question.text if question else ""))
    category = question.category if question else row.text("category") or ""
    key = _key(image or "", text)
    label = known[key][0] if key in known else None

    def failed(reason: str) -> SuiteOutcome:
        name = _name(key) if image is not None and text else row.where
        return SuiteOutcome(name, category, reason, {"label": label}, user=text, answer=answer, where=row.where)

    if row.damage is not None:
        if key in known:  # it was asked, and is missed once only
            answered.setdefault((key, category), "")
        return failed(row.damage)
    if number is not None and number in asked and question is None:
        return failed("its question_id names several questions")
    if image is None:
        return failed("unknown question_id" if asked else "no image: give questions=…")
    if not text:
        return failed("no question")
    if label is None:
        return failed("no label")
    if (key, category) in answered:
        return failed("answered again" if answered[key, category] == answer else "answered again, differently")
    answered[key, category] = answer or ""
    if label == _BOTH:
        return failed("labels contradict each other")
    if label not in ("yes", "no"):
        return failed(f"label is neither yes nor no but {label!r:.40}")
    if answer is None or not answer.strip():
        return failed("empty answer")
    facts = {"label": label, "said": said(answer), "unclear": not {"yes", "no", "not"} & set(_words(answer))}
    # The category is part of the name: POPE asks the same in several of them.
    name = f"{category}/{_name(key)}" if category else _name(key)
    return SuiteOutcome(name, category, None, facts, user=text, answer=answer, judge="rules", where=row.where)


def _questions(rows: Sequence[Row], bad: list[SuiteOutcome]) -> dict[str, _Question | None]:
    """By question_id; None where one id names several questions."""
    found: dict[str, _Question | None] = {}
    for row in rows:
        number, image = row.text("question_id", "id"), row.text("image", "image_id")
        if row.damage is not None or number is None or image is None:
            reason = row.damage or "question without question_id or image"
            bad.append(SuiteOutcome(row.where, "", reason, where=row.where))
            continue
        question = _Question(image, row.text("text", "question") or "", row.text("category") or "")
        found[number] = question if found.setdefault(number, question) == question else None
    return found


def _labels(rows: Sequence[Row], bad: list[SuiteOutcome]) -> dict[Key, tuple[str, str]]:
    """(image, question) to its label in small letters and its place."""
    found: dict[Key, tuple[str, str]] = {}
    for row in rows:
        image, text, label = row.text("image", "image_id"), row.text("text", "question"), row.text("label", "answer")
        if row.damage is not None or image is None or not text or label is None:
            reason = row.damage or "label without image, question or label"
            bad.append(SuiteOutcome(row.where, "", reason, where=row.where))
            continue
        key, label = _key(image, text), label.strip().casefold()
        before, _ = found.setdefault(key, (label, row.where))
        if before != label:
            found[key] = (_BOTH, row.where)
    return found


def _words(text: str) -> Iterator[str]:
    return (word.strip(".,;:!?\"'") for word in text.casefold().split())


def _key(image: str, question: str) -> Key:
    return image_key(image), normal(first_line(question))


def _name(key: Key) -> str:
    return f"{key[0]}/{key[1]}"


def _categories(asked: dict[str, _Question | None]) -> dict[Key, str]:
    """Of what is asked in one category only."""
    found: dict[Key, set[str]] = defaultdict(set)
    for question in filter(None, asked.values()):
        found[_key(question.image, question.text)].add(question.category)
    return {key: min(names) for key, names in found.items() if len(names) == 1}
