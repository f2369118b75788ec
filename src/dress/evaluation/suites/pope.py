"""POPE: yes/no questions about objects, joined by (image, question) and never by position."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from dress.base.progress import CurriculumProgress
from dress.coco.mentions import normal
from dress.evaluation.suites.measures import Measure, Suite
from dress.evaluation.suites.outcome import SuiteOutcome, counted
from dress.evaluation.suites.output import finish
from dress.evaluation.suites.reading import Row, first_line, image_key, read_rows
from dress.evaluation.suites.settings import Pope

Key = tuple[str, str]
"""Image and question."""
Labels = Mapping[str, Sequence[Row]]
"""Rows by the name of their file."""
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


def _label_files(outcomes: Sequence[SuiteOutcome]) -> list[str]:
    """Where there are several: their names, each a category of its own."""
    return sorted({str(o.facts["labels"]) for o in outcomes if "labels" in o.facts})


SUITE = Suite("pope", lambda outcomes: _MEASURES, _unclear, _label_files)


def run(settings: Pope, console: Console) -> dict[str, Any]:
    """`suite=pope`.

    Raises:
        FileNotFoundError, ValueError: a file that is not there or holds no rows.
    """
    paths = settings.label_files
    stems = [Path(path).stem for path in paths]
    names = stems if len(set(stems)) == len(stems) else paths
    labels = {name: read_rows("labels", path) for name, path in zip(names, paths, strict=True)}
    questions = read_rows("questions", settings.questions) if settings.questions else []
    if settings.answers is not None:
        found = outcomes(questions, labels, read_rows("answers", settings.answers))
    else:
        found = _ask(settings, questions, labels, console)
    return finish(SUITE, found, settings, console)


def _ask(settings: Pope, questions: Sequence[Row], labels: Labels, console: Console) -> list[SuiteOutcome]:
    """Outcomes of a responder's answers to the questions; to the labels' own, each once, where there are none."""
    from dress.evaluation.suites.answering import Asker
    from dress.evaluation.suites.asked import Images, question

    images, asker = Images(settings.images), Asker(settings)
    rows: list[Row] = []
    asked = []
    lacking: list[Row] = []
    seen: set[Key] = set()
    for row in questions or [row for rows in labels.values() for row in rows]:
        image, text = row.text("image", "image_id"), row.text("text", "question")
        if row.damage is not None or image is None or not text:
            continue  # `outcomes` names it
        if not questions and _key(image, text) in seen:
            continue  # another label file asks it too
        seen.add(_key(image, text))
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


@dataclass(frozen=True)
class _Answer:
    """A row of the answers: what it answers, or (`failed`) why that is not known."""

    row: Row
    category: str
    key: Key | None
    question: str
    text: str | None
    failed: str | None = None


def outcomes(questions: Sequence[Row], labels: Labels, answers: Sequence[Row]) -> list[SuiteOutcome]:
    """One outcome per labelled question of each file of labels, and per row that is in no figure.

    POPE asks some questions in several categories. One file of labels counts a question once: with the
    answer of the category that most of its questions were asked in, where there is one.

    Args:
        questions: `question_id, image, text` (first line: the question), `category`.
        labels: `image, text, label`, by the name of their file.
        answers: `question_id, prompt, text`; or `image` and `question` of their own, without question_id.

    Returns:
        Their category is the question's; with several files of labels, the file's name.
    """
    bad: list[SuiteOutcome] = []
    asked = _questions(questions, bad)
    given = [_read(row, asked) for row in answers]
    known = {name: _labels(rows, bad) for name, rows in labels.items()}
    chosen = {name: _chosen(given, file) for name, file in known.items()}
    several, categories = len(known) > 1, _categories(asked)
    found: list[SuiteOutcome] = []
    for answer in given:
        counts = [name for name in known if answer.key is not None and chosen[name].get(answer.key) is answer]
        for name in counts:
            assert answer.key is not None
            found.append(_judged(answer, known[name][answer.key][0], name if several else None))
        if not counts:
            found.append(_set_aside(answer, known, chosen, "" if several else answer.category))
    missing = (
        SuiteOutcome(_name(key), name if several else categories.get(key, ""), "no answer",
                     {"label": label, **({"labels": name} if several else {})}, user=key[1], where=where)
        for name, file in known.items() for key, (label, where) in file.items() if key not in chosen[name]
    )  # fmt: skip
    return [*bad, *found, *missing]


def _read(row: Row, asked: dict[str, _Question | None]) -> _Answer:
    number = row.text("question_id", "id")
    question = asked.get(number) if number is not None else None
    image = row.text("image", "image_id") or (question.image if question else None)
    text = first_line(row.text("prompt", "question") or (question.text if question else ""))
    failed = row.damage
    if failed is None and number is not None and number in asked and question is None:
        failed = "its question_id names several questions"
    elif failed is None and image is None:
        failed = "unknown question_id" if asked else "no image: give questions=…"
    elif failed is None and not text:
        failed = "no question"
    return _Answer(
        row, question.category if question else row.text("category") or "",
        None if image is None or not text else _key(image, text), text, row.text("text", "answer", "output"), failed,
    )  # fmt: skip


def _chosen(given: Sequence[_Answer], labels: Mapping[Key, Any]) -> dict[Key, _Answer]:
    """The answer to each question of one file of labels: the first of the category that has most of them."""
    here = [answer for answer in given if answer.key in labels and answer.failed in (None, answer.row.damage)]
    common = Counter(category for category, _ in {(answer.category, answer.key) for answer in here})
    found: dict[Key, _Answer] = {}
    for answer in sorted(here, key=lambda answer: -common[answer.category]):
        assert answer.key is not None
        found.setdefault(answer.key, answer)
    return found


def _judged(answer: _Answer, label: str, file: str | None) -> SuiteOutcome:
    """The answer to a labelled question; `file` names the labels where there are several files."""
    assert answer.key is not None
    more = {} if file is None else {"labels": file}
    category = answer.category if file is None else file
    where, text = answer.row.where, answer.text
    failed = answer.failed
    if failed is None and label == _BOTH:
        failed = "labels contradict each other"
    elif failed is None and label not in ("yes", "no"):
        failed = f"label is neither yes nor no but {label!r:.40}"
    elif failed is None and (text is None or not text.strip()):
        failed = "empty answer"
    name = _name(answer.key)
    if failed is not None or text is None:
        facts: dict[str, Any] = {"label": label, **more}
        return SuiteOutcome(name, category, failed, facts, user=answer.question, answer=text, where=where)
    unclear = not {"yes", "no", "not"} & set(_words(text))
    facts = {"label": label, "said": said(text), "unclear": unclear, **more}
    # The category is part of the name: POPE asks the same in several of them.
    name = f"{category}/{name}" if category else name
    return SuiteOutcome(name, category, None, facts, user=answer.question, answer=text, judge="rules", where=where)


def _set_aside(
    answer: _Answer, known: Mapping[str, Any], chosen: Mapping[str, dict[Key, _Answer]], category: str
) -> SuiteOutcome:
    """An answer that no label counts, and why."""
    failed = answer.failed
    if failed is None:
        assert answer.key is not None
        before = [chosen[name][answer.key] for name, file in known.items() if answer.key in file]
        alike = [other for other in before if other.category == answer.category]
        if not before:
            failed = "no label"
        elif not alike:
            failed = "counted in another category"
        else:
            failed = "answered again" if alike[0].text == answer.text else "answered again, differently"
    name = answer.row.where if answer.key is None else _name(answer.key)
    return SuiteOutcome(name, category, failed, {"label": None}, user=answer.question, answer=answer.text,
                        where=answer.row.where)  # fmt: skip


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
