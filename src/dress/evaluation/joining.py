"""A file of answers, joined to what is asked: by item, id, or image and question; never by position."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from dress.coco.mentions import normal
from dress.evaluation.outcomes import Outcome
from dress.evaluation.questions import Question
from dress.evaluation.rows import FileRow, image_key
from dress.rollout.answer_rows import ANSWERS, KEY, NUMBERS, QUESTIONS
from dress.rollout.responder import NoAnswer

NAMED = 3
"""Questions and rows that an error names."""


class _Finder:
    """Finds which question a row answers.

    A row names it by `item` (as outcomes have it; `key` in 0.1), by the question's `question_id`, `id` or `key`, or by
    `image` and the question's words, around which a prompt may say more (`Question: … Answer:`). A row without words
    answers the only question about its image; one that holds nothing but words the only question that has them.
    """

    def __init__(self, questions: Sequence[Question]) -> None:
        self._by_item = {one.item: n for n, one in enumerate(questions)}
        self._by_number: dict[str, list[int]] = defaultdict(list)
        self._by_image: dict[str, list[int]] = defaultdict(list)
        self._words = [_words(one.user) for one in questions]
        for n, one in enumerate(questions):
            if one.number is not None:
                self._by_number[one.number].append(n)
            if one.record.image is not None:
                self._by_image[image_key(one.record.image.id)].append(n)

    def find(self, row: FileRow) -> int | str:
        """Index of the question, or why there is none."""
        words = _words(row.text(*QUESTIONS) or "")
        for item in filter(None, (row.text("item"), row.text(KEY))):
            if item in self._by_item:
                return self._by_item[item]
        for number in filter(None, (row.text(name) for name in (*NUMBERS, KEY))):
            if len(self._by_number[number]) == 1:
                (place,) = self._by_number[number]
                same = not words or self._words[place] in words
                return place if same else "question_id is of another question than its prompt"
        if row.image is None:
            alike = [n for n, own in enumerate(self._words) if own == words] if row.number is None and words else []
            if len(alike) == 1:
                return alike[0]
            return "several questions have these words" if alike else "unknown question"
        about = self._by_image[image_key(row.image)]
        if not words and len(about) > 1:
            return "no question, and several are asked about its image"
        matches = [n for n in about if not words or self._words[n] in words]
        return max(matches, key=lambda n: len(self._words[n])) if matches else "unknown question"


def join(rows: Sequence[FileRow], questions: Sequence[Question]) -> tuple[list[str | NoAnswer], list[Outcome]]:
    """An answer to every question, or why there is none; and an outcome for each row that answers none.

    Args:
        rows: of the file.
        questions: what was asked.
    """
    finder = _Finder(questions)
    answers: list[str | NoAnswer] = [NoAnswer("no answer") for _ in questions]
    texts: dict[int, str | None] = {}
    unmatched = []
    for row in rows:
        text = row.text(*ANSWERS)
        place = row.damage if row.damage is not None else finder.find(row)
        if isinstance(place, int) and place in texts:
            place = "answered again" if texts[place] == text else "answered again, differently"
        if isinstance(place, int):
            texts[place] = text
            answers[place] = text if text is not None and text.strip() else NoAnswer("empty answer")
        else:
            unmatched.append(row.failed(place, user=row.text(*QUESTIONS), answer=text))
    return answers, unmatched


def nothing_matched(setting: str, path: str, wanted: Sequence[str], rows: Sequence[FileRow]) -> ValueError:
    """The error of a file of which no row answers any question: what was looked for, and what stands there.

    Args:
        setting: that names the file.
        path: of the file.
        wanted: what the questions are called.
        rows: of the file.
    """
    there = [f"{called(row.number, row.image, row.text(*QUESTIONS))}" for row in rows if row.damage is None]
    damaged = f"; {len(rows) - len(there):,} are damaged" if len(there) < len(rows) else ""
    return ValueError(
        f"{setting}={path}: none of its {len(rows):,} rows answers one of the {len(wanted):,} questions (n = 0): "
        f"looked for {_few(wanted)}; the rows are of {_few(there)}{damaged}"
    )


def called(number: str | None, image: str | None, words: str | None) -> str:
    """What a row or a question can be found by, in short."""
    if number is not None:
        return f"question_id {number}"
    names = [f"image {image}"] if image is not None else []
    names += [f"{words[:40]!r}{' …' if len(words) > 40 else ''}"] if words else []
    return " with ".join(names) or "nothing (no question_id, id, key, image or question)"


def _few(names: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(names))
    return ", ".join(distinct[:NAMED]) + (" …" if len(distinct) > NAMED else "") or "none"


def _words(text: str) -> str:
    return normal(text.replace("<image>", " "))
