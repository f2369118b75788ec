"""A file of answers, joined to what is asked: by item, question_id, or image and question; never by position."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from dress.coco.mentions import normal
from dress.evaluation.outcomes import Outcome
from dress.evaluation.questions import Question
from dress.evaluation.rows import FileRow, image_key
from dress.rollout.responder import NoAnswer

_PROMPT = ("prompt", "question", "user", "query", "instruction")
_ANSWER = ("text", "answer", "assistant", "response", "output", "caption")


class _Finder:
    """Finds which question a row answers.

    A row names it by `item` (as outcomes have it; `key` in 0.1), by `question_id`, or by `image` and the question's
    words, around which a prompt may say more (`Question: … Answer:`). A row without words answers the
    only question about its image.
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
        item, number, image = row.text("item", "key"), row.text("question_id", "id"), row.text("image", "image_id")
        words = _words(row.text(*_PROMPT) or "")
        if item is not None and item in self._by_item:
            return self._by_item[item]
        if number is not None and len(self._by_number[number]) == 1:
            (place,) = self._by_number[number]
            same = not words or self._words[place] in words
            return place if same else "question_id is of another question than its prompt"
        if image is None:
            return "unknown question"
        about = self._by_image[image_key(image)]
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
        text = row.text(*_ANSWER)
        place = row.damage if row.damage is not None else finder.find(row)
        if isinstance(place, int) and place in texts:
            place = "answered again" if texts[place] == text else "answered again, differently"
        if isinstance(place, int):
            texts[place] = text
            answers[place] = text if text is not None and text.strip() else NoAnswer("empty answer")
        else:
            unmatched.append(row.failed(place, user=row.text(*_PROMPT), answer=text))
    return answers, unmatched


def _words(text: str) -> str:
    return normal(text.replace("<image>", " "))
