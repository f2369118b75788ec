"""Answers out of a file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dress.base.files import read_lines
from dress.base.progress import Advance, ignore
from dress.dialogue.spans import Completion
from dress.record import Dialogue, Record
from dress.rollout.responder import Answer, NoAnswer, OpenTurn, Sampling

KEYS, QUESTIONS, ANSWERS = (
    ("key", "image", "image_id"), ("question", "user", "prompt"), ("answer", "assistant", "response", "text")
)  # fmt: skip
"""Names under which a file of answers holds the record's key or image, the question, and the answer."""


class FileResponder:
    """Answers out of JSON lines, joined by (key or image id, question); never by position.

    A row without a question answers the record's only question. Several rows for one question are
    several draws. `finish_reason` of a row says how its answer ended. After use, `unused` lists the rows that did
    not fit.

    Args:
        path: of the file.

    Raises:
        ValueError: a line is no JSON, or no row holds an answer.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._answers: dict[tuple[str, str], list[tuple[int, Completion]]] = {}
        self._used: set[int] = set()
        self._rows: dict[int, Any] = {}
        self._unusable: list[dict[str, Any]] = []
        for line, row in enumerate(read_lines(path), start=1):
            fields = row if isinstance(row, dict) else {}
            key, question, answer = (_first(fields, names) for names in (KEYS, QUESTIONS, ANSWERS))
            if key is None or answer is None:
                reason = "no key" if answer is not None else "no answer"
                self._unusable.append({"line": line, "reason": reason, "row": row})
                continue
            self._rows[line] = row
            completion = Completion(answer, _first(fields, ("finish_reason",)))
            self._answers.setdefault((key, _plain(question or "")), []).append((line, completion))
        if not self._answers:
            raise ValueError(
                f"{path}: expected rows with one of {KEYS} and one of {ANSWERS}, got {len(self._unusable)} rows without"
            )

    def preprocess(self, data: bytes, where: str) -> None:
        """A file looks at no image."""

    def answer(
        self, questions: Sequence[OpenTurn], pixels: Sequence[None], sampling: Sampling, progress: Advance = ignore
    ) -> list[Answer]:
        """See `Responder.answer`."""
        draws: Counter[str] = Counter()
        answers: list[Answer] = []
        for question in questions:
            rows = self._matches(question.record, question.dialogue)
            name = _name(question.record, question.dialogue)
            if draws[name] < len(rows):
                line, answer = rows[draws[name]]
                self._used.add(line)
                answers.append(answer)
            else:
                answers.append(NoAnswer("missing"))
            draws[name] += 1
        progress(len(answers))
        return answers

    def _matches(self, record: Record, dialogue: Dialogue) -> list[tuple[int, Completion]]:
        names = [record.key, *([record.image.id] if record.image is not None else [])]
        is_only = len(dialogue.turns) == 1 == len(record.dialogues)
        texts = [_plain(dialogue.turns[-1].user), *([""] if is_only else [])]
        keys = ((name, text) for name in names for text in texts)
        return next((self._answers[key] for key in keys if key in self._answers), [])

    @property
    def unused(self) -> list[dict[str, Any]]:
        """Rows that hold no answer, that nobody asked for, or that answer a question once more: line, reason, row."""
        unused = []
        for rows in self._answers.values():
            reason = "twice" if any(line in self._used for line, _ in rows) else "not asked"
            unused += [
                {"line": line, "reason": reason, "row": self._rows[line]} for line, _ in rows if line not in self._used
            ]
        return [*self._unusable, *sorted(unused, key=lambda row: int(str(row["line"])))]


def _name(record: Record, dialogue: Dialogue) -> str:
    """Equal for dialogues that ask the same."""
    return json.dumps([record.key, *([turn.user, turn.assistant] for turn in dialogue.turns)])


def _first(row: dict[str, Any], names: Sequence[str]) -> str | None:
    return next((str(row[name]) for name in names if isinstance(row.get(name), str | int)), None)


def _plain(question: str) -> str:
    return " ".join(question.replace("<image>", " ").split())
