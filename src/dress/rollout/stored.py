"""Answers of a model in memory, stored in a ledger, so that they are drawn once and then stand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict

from dress.base.progress import Advance, ignore
from dress.dialogue.spans import Completion
from dress.llm.ledger import Ledger
from dress.rollout.responder import Answer, NoAnswer, OpenTurn, Responder, Sampling


class StoredAnswers:
    """Answers of another responder, stored in a ledger.

    Args:
        responder: draws them; None only gives those that are stored.
        name: of the responder.
        ledger: where they are stored.
        identity: of the responder's weights: equal identities give interchangeable answers.
    """

    def __init__(self, responder: Responder | None, name: str, ledger: Ledger, identity: str) -> None:
        self.name = name
        self._responder, self._ledger, self._identity = responder, ledger, identity

    def replay(self) -> StoredAnswers:
        """The same with what is stored; draws none."""
        return StoredAnswers(None, self.name, self._ledger, self._identity)

    def preprocess(self, data: bytes, where: str) -> tuple[bytes, str]:
        """Nothing yet: stored answers need no pixels."""
        return data, where

    def answer(
        self, questions: Sequence[OpenTurn], pixels: Sequence[tuple[bytes, str]], sampling: Sampling,
        progress: Advance = ignore,
    ) -> Sequence[Answer]:  # fmt: skip
        """See `Responder.answer`."""
        key = self._key(questions, pixels, sampling)
        stored = self._ledger.answers(key)
        if stored is not None:
            progress(len(stored))
            return [Completion(*one) if isinstance(one, list) else one for one in stored]  # older ones are texts only
        if self._responder is None:
            return [NoAnswer("not_recorded") for _ in questions]
        preprocessed = [self._responder.preprocess(data, where) for data, where in pixels]
        answers = list(self._responder.answer(questions, preprocessed, sampling, progress))
        assert all(isinstance(answer, str) for answer in answers), "a model in memory always answers"
        if not self._ledger.readonly:
            ends = (getattr(answer, "finish_reason", None) for answer in answers)
            self._ledger.store_answers(key, [list(one) for one in zip(answers, ends, strict=True)])
        return answers

    def _key(self, questions: Sequence[OpenTurn], pixels: Sequence[tuple[bytes, str]], sampling: Sampling) -> str:
        """Equal for equal questions to equal weights, drawn alike. Ledgers hold it: its form stays."""
        images = [hashlib.sha256(data).hexdigest() for data, _ in pixels]
        texts = [
            [
                None if question.image is None else images[question.image],
                [[turn.user, turn.assistant] for turn in question.dialogue.turns],
                *([] if question.dialogue.system is None else [question.dialogue.system]),
            ]
            for question in questions
        ]
        conditions, seeds = [question.condition for question in questions], [question.seed for question in questions]
        settings = {name: value for name, value in asdict(sampling).items() if name != "condition"}  # in conditions
        content = [self._identity, texts, conditions, settings, seeds]
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()
