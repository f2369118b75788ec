"""A file of answers, joined to what is asked: by key, question_id, or image and question; never by position."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from dress.coco.mentions import normal
from dress.evaluation.suites.asked import Asked
from dress.evaluation.suites.outcome import SuiteOutcome
from dress.evaluation.suites.reading import Row, image_key
from dress.rollout.responder import NoAnswer

_PROMPT = ("prompt", "question", "user", "query", "instruction")
_ANSWER = ("text", "answer", "assistant", "response", "output", "caption")


class Join:
    """Finds which question a row answers.

    A row names it by `key` (as outcomes have it), by `question_id`, or by `image` and the question's
    words, around which a prompt may say more (`Question: … Answer:`). A row without words answers the
    only question about its image.
    """

    def __init__(self, asked: Sequence[Asked]) -> None:
        self._by_key = {one.key: n for n, one in enumerate(asked)}
        self._by_number: dict[str, list[int]] = defaultdict(list)
        self._by_image: dict[str, list[int]] = defaultdict(list)
        self._words = [_words(one.user) for one in asked]
        for n, one in enumerate(asked):
            if one.number is not None:
                self._by_number[one.number].append(n)
            if one.record.image is not None:
                self._by_image[image_key(one.record.image.id)].append(n)

    def find(self, row: Row) -> int | str:
        """Index of the question, or why there is none."""
        key, number, image = row.text("key"), row.text("question_id", "id"), row.text("image", "image_id")
        words = _words(row.text(*_PROMPT) or "")
        if key is not None and key in self._by_key:
            return self._by_key[key]
        if number is not None and len(self._by_number[number]) == 1:
            (place,) = self._by_number[number]
            same = not words or self._words[place] in words
            return place if same else "question_id is of another question than its prompt"
        if image is None:
            return "unknown question"
        about = self._by_image[image_key(image)]
        if not words and len(about) > 1:
            return "no question, and several are asked about its image"
        found = [n for n in about if not words or self._words[n] in words]
        return max(found, key=lambda n: len(self._words[n])) if found else "unknown question"


def join(rows: Sequence[Row], asked: Sequence[Asked]) -> tuple[list[str | NoAnswer], list[SuiteOutcome]]:
    """An answer to every question, or why there is none; and an outcome for each row that answers none.

    Args:
        rows: of the file.
        asked: the questions.
    """
    finder = Join(asked)
    answers: list[str | NoAnswer] = [NoAnswer("no answer") for _ in asked]
    given: dict[int, str | None] = {}
    left = []
    for row in rows:
        answer = row.text(*_ANSWER)
        place = row.damage if row.damage is not None else finder.find(row)
        if isinstance(place, int) and place in given:
            place = "answered again" if given[place] == answer else "answered again, differently"
        if isinstance(place, int):
            given[place] = answer
            answers[place] = answer if answer is not None and answer.strip() else NoAnswer("empty answer")
        else:
            left.append(SuiteOutcome(row.where, "", place, user=row.text(*_PROMPT), answer=answer, where=row.where))
    return answers, left


def _words(text: str) -> str:
    return normal(text.replace("<image>", " "))
