"""POPE: yes/no questions about objects, joined by (image, question) and never by position."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import model_validator
from rich.console import Console

from dress.base.progress import CurriculumProgress
from dress.coco.mentions import normal
from dress.config.raters import ResponderName
from dress.evaluation.answers import Asker
from dress.evaluation.joining import called, nothing_matched
from dress.evaluation.measures import Measure
from dress.evaluation.outcomes import Outcome, counted
from dress.evaluation.questions import Images, question
from dress.evaluation.rows import FileRow, first_line, image_key, read_rows
from dress.evaluation.settings import Asking
from dress.evaluation.suite import suite

Key = tuple[str, str]
"""Image and question."""
Labels = Mapping[str, Sequence[FileRow]]
"""Rows by the name of their file."""
_BOTH = "yes and no"


class Pope(Asking):
    """Is there a … in the image? (Li et al., 2023)"""

    questions: str | None = None  # JSON lines: question_id, image, text, category; null where answers name their image
    labels: str | list[str]  # JSON lines: image, text, label; one file, or a list of them
    answers: str | None = None  # JSON lines: question_id, prompt, text
    responder: ResponderName | None = None  # instead of answers: who is asked the questions (or labels)
    images: str | None = None  # a folder, for a responder

    @property
    def label_files(self) -> tuple[str, ...]:
        """Their paths."""
        return (self.labels,) if isinstance(self.labels, str) else tuple(self.labels)

    @model_validator(mode="after")
    def _one_source(self) -> Pope:
        if (self.answers is None) == (self.responder is None):
            raise ValueError("expected one of answers (a file) and responder (a run folder, or a server's address)")
        return self


def yes_or_no(answer: str) -> str:
    """`no` or `yes` by POPE's rule: no, where the first sentence holds "no" or "not"; else yes."""
    words = answer.partition(".")[0].replace(",", "").casefold().split()
    return "no" if {"no", "not"} & set(words) else "yes"


def _is(outcome: Outcome, fact: str, value: str = "yes") -> int:
    return int(outcome.facts[fact] == value)


def _hit(outcome: Outcome) -> int:
    return _is(outcome, "label") * _is(outcome, "said")


MEASURES = (
    Measure("accuracy", "accuracy", lambda o: (o.facts["said"] == o.facts["label"], 1)),
    Measure("precision", "precision", lambda o: (_hit(o), 1) if _is(o, "said") else None),
    Measure("recall", "recall", lambda o: (_hit(o), 1) if _is(o, "label") else None),
    Measure("f1", "F1", lambda o: (2 * _hit(o), _is(o, "said") + _is(o, "label")), kind="ratio"),
    Measure("yes_share", "says yes", lambda o: (_is(o, "said"), 1), up=None),
)


def _unclear(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Answers that say neither yes nor no; POPE's rule takes them for yes."""
    return {"unclear": sum(o.facts["unclear"] for o in counted(outcomes))}


def _label_files(outcomes: Sequence[Outcome]) -> list[str]:
    """Where there are several: their names, each a category of its own."""
    return sorted({str(o.facts["labels"]) for o in outcomes if "labels" in o.facts})


@suite("pope", Pope, measures=MEASURES, more=_unclear, mean_over=_label_files)
def pope(settings: Pope, console: Console) -> list[Outcome]:
    """The answers of a file or of a responder, beside the labels.

    Raises:
        FileNotFoundError, ValueError: a file that is not there or holds no rows.
    """
    paths = settings.label_files
    stems = [Path(path).stem for path in paths]
    names = stems if len(set(stems)) == len(stems) else paths
    labels = {name: read_rows("labels", path) for name, path in zip(names, paths, strict=True)}
    questions = read_rows("questions", settings.questions) if settings.questions else []
    if settings.answers is not None:
        answers = read_rows("answers", settings.answers)
        results = outcomes(questions, labels, answers)
        if not any("said" in outcome.facts or outcome.failed == "empty answer" for outcome in results):
            named = questions or [row for rows in labels.values() for row in rows]
            wanted = [called(row.number, row.image, row.text("text", "question")) for row in named]
            raise nothing_matched("answers", settings.answers, wanted, answers)
        return results
    return _ask(settings, questions, labels, console)


def _ask(settings: Pope, questions: Sequence[FileRow], labels: Labels, console: Console) -> list[Outcome]:
    """Outcomes of a responder's answers to the questions; to the labels' own, each once, where there are none."""
    images, asker = Images(settings.images), Asker(settings)
    rows: list[FileRow] = []
    asked = []
    lacking: list[FileRow] = []
    seen: set[Key] = set()
    for row in questions or [row for rows in labels.values() for row in rows]:
        image, text = row.image, row.text("text", "question")
        if row.damage is not None or image is None or not text:
            continue  # `outcomes` names it
        if not questions and _key(image, text) in seen:
            continue  # another label file asks it too
        seen.add(_key(image, text))
        if images.lacks(image):
            lacking.append(FileRow(row.where, {**row.data, "prompt": text}, "image is not in images"))
            continue
        rows.append(row)
        number, category = row.number, row.text("category") or ""
        asked.append(question(row.where, category, image, text, images, number=number, where=row.where))
    rounds: list[Outcome] = []
    with CurriculumProgress(console, {}) as progress:
        for run in range(settings.runs if asker.repeats else 1):
            progress.start("answer", len(asked))
            answers = asker.ask(asked, run, progress.advance)
            progress.end()
            answer_rows = [
                FileRow(row.where, {**row.data, "prompt": one.user, "text": text if isinstance(text, str) else ""},
                    None if isinstance(text, str) else text.reason)
                for row, one, text in zip(rows, asked, answers.answers, strict=True)
            ]  # fmt: skip
            one_run = outcomes(questions, labels, [*answer_rows, *lacking])
            rounds += [replace(outcome, run=run, responder=answers.responder) for outcome in one_run]
    return rounds


@dataclass(frozen=True)
class _Question:
    image: str
    text: str
    category: str


@dataclass(frozen=True)
class _Answer:
    """A row of the answers: what it answers, or (`failed`) why that is not known."""

    row: FileRow
    category: str
    key: Key | None
    question: str
    text: str | None
    failed: str | None = None

    def outcome(
        self, item: str, category: str, facts: dict[str, Any], failed: str | None = None, judge: str | None = None
    ) -> Outcome:
        """What it comes to; its record is the image."""
        return Outcome(
            item=item, key="" if self.key is None else self.key[0], category=category, failed=failed, facts=facts,
            user=self.question, answer=self.text, judge=judge, where=self.row.where,
        )  # fmt: skip


def outcomes(questions: Sequence[FileRow], labels: Labels, answers: Sequence[FileRow]) -> list[Outcome]:
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
    bad: list[Outcome] = []
    asked = _questions(questions, bad)
    parsed = [_read(row, asked) for row in answers]
    known = {name: _labels(rows, bad) for name, rows in labels.items()}
    chosen = {name: _chosen(parsed, file) for name, file in known.items()}
    several, categories = len(known) > 1, _categories(asked)
    results: list[Outcome] = []
    for answer in parsed:
        counts = [name for name in known if answer.key is not None and chosen[name].get(answer.key) is answer]
        for name in counts:
            assert answer.key is not None
            results.append(_judged(answer, known[name][answer.key][0], name if several else None))
        if not counts:
            results.append(_set_aside(answer, known, chosen, "" if several else answer.category))
    missing = (
        Outcome(
            item=_name(key), key=key[0], category=name if several else categories.get(key, ""), failed="no answer",
            facts={"label": label, **({"labels": name} if several else {})}, user=key[1], where=where,
        )
        for name, file in known.items() for key, (label, where) in file.items() if key not in chosen[name]
    )  # fmt: skip
    return [*bad, *results, *missing]


def _read(row: FileRow, asked: dict[str, _Question | None]) -> _Answer:
    number = row.number
    question = asked.get(number) if number is not None else None
    image = row.image or (question.image if question else None)
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


def _chosen(answers: Sequence[_Answer], labels: Mapping[Key, Any]) -> dict[Key, _Answer]:
    """The answer to each question of one file of labels: the first of the category that has most of them."""
    here = [answer for answer in answers if answer.key in labels and answer.failed in (None, answer.row.damage)]
    common = Counter(category for category, _ in {(answer.category, answer.key) for answer in here})
    first: dict[Key, _Answer] = {}
    for answer in sorted(here, key=lambda answer: -common[answer.category]):
        assert answer.key is not None
        first.setdefault(answer.key, answer)
    return first


def _judged(answer: _Answer, label: str, file: str | None) -> Outcome:
    """The answer to a labelled question; `file` names the labels where there are several files."""
    assert answer.key is not None
    more = {} if file is None else {"labels": file}
    category = answer.category if file is None else file
    text = answer.text
    failed = answer.failed
    if failed is None and label == _BOTH:
        failed = "labels contradict each other"
    elif failed is None and label not in ("yes", "no"):
        failed = f"label is neither yes nor no but {label!r:.40}"
    elif failed is None and (text is None or not text.strip()):
        failed = "empty answer"
    item = _name(answer.key)
    if failed is not None or text is None:
        return answer.outcome(item, category, {"label": label, **more}, failed)
    unclear = not {"yes", "no", "not"} & set(_words(text))
    facts = {"label": label, "said": yes_or_no(text), "unclear": unclear, **more}
    # The category is part of the name: POPE asks the same in several of them.
    return answer.outcome(f"{category}/{item}" if category else item, category, facts, judge="rules")


def _set_aside(
    answer: _Answer, known: Mapping[str, Any], chosen: Mapping[str, dict[Key, _Answer]], category: str
) -> Outcome:
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
    item = answer.row.where if answer.key is None else _name(answer.key)
    return answer.outcome(item, category, {"label": None}, failed)


def _questions(rows: Sequence[FileRow], bad: list[Outcome]) -> dict[str, _Question | None]:
    """By question_id; None where one id names several questions."""
    by_id: dict[str, _Question | None] = {}
    for row in rows:
        number, image = row.number, row.image
        if row.damage is not None or number is None or image is None:
            bad.append(row.failed(row.damage or "question without question_id or image"))
            continue
        question = _Question(image, row.text("text", "question") or "", row.text("category") or "")
        by_id[number] = question if by_id.setdefault(number, question) == question else None
    return by_id


def _labels(rows: Sequence[FileRow], bad: list[Outcome]) -> dict[Key, tuple[str, str]]:
    """(image, question) to its label in small letters and its place."""
    known: dict[Key, tuple[str, str]] = {}
    for row in rows:
        image, text, label = row.image, row.text("text", "question"), row.text("label", "answer")
        if row.damage is not None or image is None or not text or label is None:
            bad.append(row.failed(row.damage or "label without image, question or label"))
            continue
        key, label = _key(image, text), label.strip().casefold()
        before, _ = known.setdefault(key, (label, row.where))
        if before != label:
            known[key] = (_BOTH, row.where)
    return known


def _words(text: str) -> Iterator[str]:
    return (word.strip(".,;:!?\"'") for word in text.casefold().split())


def _key(image: str, question: str) -> Key:
    return image_key(image), normal(first_line(question))


def _name(key: Key) -> str:
    return f"{key[0]}/{key[1]}"


def _categories(asked: dict[str, _Question | None]) -> dict[Key, str]:
    """Of what is asked in one category only."""
    categories: dict[Key, set[str]] = defaultdict(set)
    for one in filter(None, asked.values()):
        categories[_key(one.image, one.text)].add(one.category)
    return {key: min(names) for key, names in categories.items() if len(names) == 1}
