"""Answers out of a file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dress.base.files import read_lines
from dress.base.progress import Advance, ignore
from dress.dialogue.spans import Completion
from dress.record import Dialogue, Record
from dress.rollout.answer_rows import ANSWERS, IMAGES, KEY, NUMBERS, QUESTIONS, is_table, table_rows
from dress.rollout.responder import Answer, NoAnswer, OpenTurn, Sampling

RECORDS = (KEY, *IMAGES)
"""Names under which a file of answers holds the record's key or image."""


class FileResponder:
    """Answers out of JSON lines, CSV, TSV or Parquet, joined by (key or image id, question); never by position.

    A `question_id` or `id` that the record's dialogue holds too finds it without more. A row without a question
    answers the record's only question. Several rows for one question are
    several draws. `finish_reason` of a row says how its answer ended. After use, `unused` lists the rows that did
    not fit.

    Args:
        path: of the file.

    Raises:
        ValueError: a line is no JSON, or no row holds an answer.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._answers: dict[tuple[str, str, str], list[tuple[int, Completion]]] = {}
        self.used: set[int] = set()
        """Lines of rows that answered."""
        self._rows: dict[int, Any] = {}
        self._unusable: list[dict[str, Any]] = []
        rows = table_rows(path) if is_table(path) else _lines(path)
        for line, row, damage in rows:
            fields = row if isinstance(row, dict) else {}
            question, answer = _first(fields, QUESTIONS), _first(fields, ANSWERS)
            names = [("record", str(fields[name])) for name in RECORDS if isinstance(fields.get(name), str | int)]
            names += [("question", str(fields[name])) for name in NUMBERS if isinstance(fields.get(name), str | int)]
            if not names or answer is None:
                reason = damage or ("no key" if answer is not None else "no answer")
                self._unusable.append({"line": line, "reason": reason, "row": row})
                continue
            self._rows[line] = row
            completion = Completion(answer, _first(fields, ("finish_reason",)))
            for name in names:
                self._answers.setdefault((*name, _plain(question or "")), []).append((line, completion))
        if not self._answers:
            expected = f"one of {(*RECORDS, *NUMBERS)} and one of {ANSWERS}"
            raise ValueError(f"{path}: expected rows with {expected}, got {len(self._unusable)} rows without")

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
                self.used.add(line)
                answers.append(answer)
            else:
                answers.append(NoAnswer("missing"))
            draws[name] += 1
        progress(len(answers))
        return answers

    def _matches(self, record: Record, dialogue: Dialogue) -> list[tuple[int, Completion]]:
        records = [record.key, *([record.image.id] if record.image is not None else [])]
        first = len(dialogue.turns) == 1
        asked = _plain(dialogue.turns[-1].user)
        texts = [asked, *([""] if first and len(record.dialogues) == 1 else [])]
        numbers = [str(dialogue.extra[name]) for name in NUMBERS if isinstance(dialogue.extra.get(name), str | int)]
        keys = [("question", number, text) for number in numbers for text in [asked, *([""] if first else [])]]
        keys += [("record", name, text) for name in records for text in texts]
        return next((self._answers[key] for key in keys if key in self._answers), [])

    @property
    def unused(self) -> list[dict[str, Any]]:
        """Rows that hold no answer, that nobody asked for, or that answer a question once more: line, reason, row."""
        twice = {
            line for rows in self._answers.values() if any(other in self.used for other, _ in rows) for line, _ in rows
        }
        unused = [
            {"line": line, "reason": "twice" if line in twice else "not asked", "row": row}
            for line, row in self._rows.items() if line not in self.used
        ]  # fmt: skip
        return [*self._unusable, *sorted(unused, key=lambda row: int(str(row["line"])))]

    @property
    def unmatched(self) -> str | None:
        """Where not one row answered anything: what the rows call records and questions; None else."""
        names = list(dict.fromkeys(f"{name!r:.60}" for _, name, _ in self._answers))
        return None if self.used else ", ".join(names[:3]) + (" …" if len(names) > 3 else "")


def _lines(path: Path) -> Iterator[tuple[int, Any, None]]:
    return ((line, row, None) for line, row in enumerate(read_lines(path), start=1))


def _name(record: Record, dialogue: Dialogue) -> str:
    """Equal for dialogues that ask the same."""
    return json.dumps([record.key, *([turn.user, turn.assistant] for turn in dialogue.turns)])


def _first(row: dict[str, Any], names: Sequence[str]) -> str | None:
    return next((str(row[name]) for name in names if isinstance(row.get(name), str | int)), None)


def _plain(question: str) -> str:
    return " ".join(question.replace("<image>", " ").split())
