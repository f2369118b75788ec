"""Responders: who answers. A model in memory is in `collect`; here are a server, a file, and kept answers."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from dress.base.files import read_lines
from dress.dialogue.spans import Completion
from dress.llm.ledger import Ledger
from dress.llm.request import Client, Message, Request
from dress.record import Dialogue, Record

ANSWER_VERSION = "answer-1"
"""Of the messages that a server's answers are asked with."""

SEEDS = 2**31
"""Servers take whole numbers below this as seeds."""


@dataclass(frozen=True)
class Sampling:
    """How a responder answers; temperature 0 is greedy, `condition` is the text that collected answers stand after."""

    max_new_tokens: int
    batch_size: int
    temperature: float = 0.0
    top_p: float = 1.0
    condition: str = ""


@dataclass(frozen=True)
class NoAnswer:
    """An answer that could not be had, why, and which call of the ledger it was."""

    reason: str
    call: str | None = None


Answer = str | NoAnswer
"""A text that is a `Completion` says how it ended; of any other nobody knows."""


class Responder(Protocol):
    """Answers the last turn of dialogues."""

    name: str

    def preprocess(self, data: bytes, where: str) -> Any:
        """What it needs of an image.

        Args:
            data: the image file's bytes.
            where: to name it in an error.
        """
        ...

    def answer(
        self,
        records: Sequence[Record],
        dialogues: Sequence[Dialogue],
        image: Sequence[int | None],
        pixels: Sequence[Any],
        conditions: Sequence[str],
        sampling: Sampling,
        seeds: Sequence[int],
        progress: Callable[[int], None] = lambda n: None,
    ) -> Sequence[Answer]:
        """An answer to the last turn of every dialogue, or why there is none.

        Args:
            records: whose dialogues these are.
            dialogues: their last turn has no answer yet.
            image: index into `pixels` for each dialogue, or None.
            pixels: what `preprocess` gave.
            conditions: text after the last user text of each dialogue; empty for none.
            sampling: greedy or sampled.
            seeds: of each dialogue's draws; equal dialogues are told apart by them.
            progress: called with the number of finished answers.
        """
        ...


@runtime_checkable
class Holds(Protocol):
    """A responder that keeps what it has read between the turns of a dialogue."""

    def hold(self, dialogues: int, sampling: Sampling) -> Iterator[range]:
        """Which of so many dialogues are to be held together, from first to last turn, one range after another.

        What was read is kept until the next range is asked for.
        """
        ...


class ServerResponder:
    """Answers by way of an OpenAI-compatible server; every call goes through the ledger.

    Args:
        client: a server's, or a replay's.
        sees_image: send the image with the first user message.
        system: message before all others; None for none. A dialogue's own stands in its place.
    """

    def __init__(self, client: Client, sees_image: bool = True, system: str | None = None) -> None:
        self.client, self.name = client, client.model
        self._sees_image, self._system = sees_image, system

    def preprocess(self, data: bytes, where: str) -> bytes:
        return data

    def answer(
        self, records: Sequence[Record], dialogues: Sequence[Dialogue], image: Sequence[int | None],
        pixels: Sequence[bytes], conditions: Sequence[str], sampling: Sampling, seeds: Sequence[int],
        progress: Callable[[int], None] = lambda n: None,
    ) -> list[Answer]:  # fmt: skip
        """See `Responder.answer`."""
        requests = []
        for dialogue, place, condition, seed in zip(dialogues, image, conditions, seeds, strict=True):
            drawn = None if sampling.temperature == 0 else seed % SEEDS
            requests.append(
                Request(
                    self._messages(dialogue, condition),
                    prompt_version=ANSWER_VERSION,
                    image=None if place is None or not self._sees_image else pixels[place],
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    max_tokens=sampling.max_new_tokens,
                    seed=drawn,
                )
            )
        replies = self.client.ask_all(requests, lambda n, info: progress(n))
        return [
            Completion(reply.text or "", reply.reason)
            if reply.status == "done"
            else NoAnswer(str(reply.reason), reply.key)
            for reply in replies
        ]

    def recorded(self) -> ServerResponder:
        """The same with what the ledger holds; asks nobody."""
        return ServerResponder(self.client.recorded(), self._sees_image, self._system)

    def _messages(self, dialogue: Dialogue, condition: str) -> tuple[Message, ...]:
        system = self._system if dialogue.system is None else dialogue.system
        messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        for turn in dialogue.turns[:-1]:
            messages += [
                {"role": "user", "content": turn.user},
                {"role": "assistant", "content": turn.assistant or ""},
            ]
        asked = dialogue.turns[-1].user
        return (*messages, {"role": "user", "content": f"{asked} {condition}" if condition else asked})


KEYS, QUESTIONS, ANSWERS = (
    ("key", "image", "image_id"), ("question", "user", "prompt"), ("answer", "assistant", "response", "text")
)  # fmt: skip
"""Names under which a file of answers holds the record's key or image, the question, and the answer."""


class FileResponder:
    """Answers out of JSON lines, joined by (key or image id, question); never by position.

    A row without a question answers the record's only question. Several rows for one question are
    several draws. `finish_reason` of a row says how its answer ended. After use, `unused` and `left` tell what did
    not fit.

    Args:
        path: of the file.

    Raises:
        ValueError: a line is no JSON, or no row holds an answer.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._rows: dict[tuple[str, str], list[tuple[int, Completion]]] = {}
        self._used: set[int] = set()
        self._lines: dict[int, Any] = {}
        self.left: list[dict[str, Any]] = []
        """Rows that cannot be used: line, reason, row."""
        for line, row in enumerate(read_lines(path), start=1):
            found = {} if not isinstance(row, dict) else row
            key, question, answer = (_first(found, names) for names in (KEYS, QUESTIONS, ANSWERS))
            if key is None or answer is None:
                reason = "no key" if answer is not None else "no answer"
                self.left.append({"line": line, "reason": reason, "row": row})
                continue
            self._lines[line] = row
            said = Completion(answer, _first(found, ("finish_reason",)))
            self._rows.setdefault((key, _plain(question or "")), []).append((line, said))
        if not self._rows:
            raise ValueError(
                f"{path}: expected rows with one of {KEYS} and one of {ANSWERS}, got {len(self.left)} rows without"
            )

    def preprocess(self, data: bytes, where: str) -> None:
        """A file looks at no image."""

    def answer(
        self, records: Sequence[Record], dialogues: Sequence[Dialogue], image: Sequence[int | None],
        pixels: Sequence[None], conditions: Sequence[str], sampling: Sampling, seeds: Sequence[int],
        progress: Callable[[int], None] = lambda n: None,
    ) -> list[Answer]:  # fmt: skip
        """See `Responder.answer`."""
        draws: Counter[str] = Counter()
        answers: list[Answer] = []
        for record, dialogue in zip(records, dialogues, strict=True):
            rows = self._find(record, dialogue)
            name = _name(record, dialogue)
            if draws[name] < len(rows):
                line, answer = rows[draws[name]]
                self._used.add(line)
                answers.append(answer)
            else:
                answers.append(NoAnswer("missing"))
            draws[name] += 1
        progress(len(answers))
        return answers

    def _find(self, record: Record, dialogue: Dialogue) -> list[tuple[int, Completion]]:
        names = [record.key, *([record.image.id] if record.image is not None else [])]
        first = len(dialogue.turns) == 1
        questions = [_plain(dialogue.turns[-1].user), *([""] if first and len(record.dialogues) == 1 else [])]
        found = [
            self._rows[name, question] for name in names for question in questions if (name, question) in self._rows
        ]
        return found[0] if found else []

    @property
    def unused(self) -> list[dict[str, Any]]:
        """Rows that nobody asked for, or that answer a question once more."""
        left = []
        for rows in self._rows.values():
            asked = any(line in self._used for line, _ in rows)
            left += [
                {"line": line, "reason": "twice" if asked else "not asked", "row": self._lines[line]}
                for line, _ in rows
                if line not in self._used
            ]
        return [*self.left, *sorted(left, key=lambda row: int(str(row["line"])))]


class KeptAnswers:
    """Answers of another responder, kept in a ledger, so that they are drawn once and then stand.

    Args:
        responder: draws them; None only gives those that are kept.
        name: of the responder.
        ledger: where they are kept.
        identity: of the responder's weights: equal identities give interchangeable answers.
    """

    def __init__(self, responder: Responder | None, name: str, ledger: Ledger, identity: str) -> None:
        self.name = name
        self._responder, self._ledger, self._identity = responder, ledger, identity

    def recorded(self) -> KeptAnswers:
        """The same with what is kept; draws none."""
        return KeptAnswers(None, self.name, self._ledger, self._identity)

    def preprocess(self, data: bytes, where: str) -> tuple[bytes, str]:
        """Nothing yet: kept answers need no pixels."""
        return data, where

    def answer(
        self, records: Sequence[Record], dialogues: Sequence[Dialogue], image: Sequence[int | None],
        pixels: Sequence[tuple[bytes, str]], conditions: Sequence[str], sampling: Sampling, seeds: Sequence[int],
        progress: Callable[[int], None] = lambda n: None,
    ) -> Sequence[Answer]:  # fmt: skip
        """See `Responder.answer`."""
        shown = [hashlib.sha256(data).hexdigest() for data, _ in pixels]
        asked = [
            [None if place is None else shown[place], [[turn.user, turn.assistant] for turn in dialogue.turns]]
            + ([] if dialogue.system is None else [dialogue.system])
            for dialogue, place in zip(dialogues, image, strict=True)
        ]
        drawn = {name: value for name, value in asdict(sampling).items() if name != "condition"}  # in conditions
        told = [self._identity, asked, list(conditions), drawn, list(seeds)]
        key = hashlib.sha256(json.dumps(told, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()
        kept = self._ledger.answers(key)
        if kept is not None:
            progress(len(kept))
            return [Completion(*one) if isinstance(one, list) else one for one in kept]  # older ones are texts only
        if self._responder is None:
            return [NoAnswer("not_recorded") for _ in dialogues]
        ready = [self._responder.preprocess(data, where) for data, where in pixels]
        answers = list(self._responder.answer(records, dialogues, image, ready, conditions, sampling, seeds, progress))
        assert all(isinstance(answer, str) for answer in answers), "a model in memory always answers"
        if not self._ledger.readonly:
            ends = (getattr(answer, "finish_reason", None) for answer in answers)
            self._ledger.keep_answers(key, [list(one) for one in zip(answers, ends, strict=True)])
        return answers


def _name(record: Record, dialogue: Dialogue) -> str:
    """Equal for dialogues that ask the same."""
    return json.dumps([record.key, *([turn.user, turn.assistant] for turn in dialogue.turns)])


def _first(row: dict[str, Any], names: Sequence[str]) -> str | None:
    return next((str(row[name]) for name in names if isinstance(row.get(name), str | int)), None)


def _plain(question: str) -> str:
    return " ".join(question.replace("<image>", " ").split())
