"""A language model that writes requests, and one that judges them, by way of a ledger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from pydantic import BaseModel

from dress.attacker import Assignment, Draft, Refusal, Result, Review, Twin, WordsAlone
from dress.attacks.prompts import AttackFile
from dress.base.progress import Advance, ignore
from dress.base.seeding import seed_for
from dress.llm.interface import Client
from dress.llm.request import Request

SEEDS = 2**31
"""Seeds that every server takes."""
Form = TypeVar("Form", bound=BaseModel)


class _Questions:
    """Puts the questions of a file to a client.

    Args:
        client: a server's, or a replay's.
        file: what is asked.
        temperature: of the replies; None: the server's own.
        max_tokens: of a reply.
    """

    def __init__(self, client: Client, file: AttackFile, temperature: float | None, max_tokens: int) -> None:
        self.client, self.file, self.name = client, file, client.model
        self.prompt_version = file.prompt_version
        self._temperature, self._max_tokens = temperature, max_tokens

    def request(self, question: str, schema: type[BaseModel], asked: Assignment, query: str = "") -> Request:
        """The call; of equal questions in several rounds, each is drawn anew."""
        drawn = (asked.seed, question, asked.record.key, asked.number, len(asked.tried))
        return Request(
            self.file.messages(question, asked, query),
            prompt_version=self.file.version_of(question),
            schema=schema,
            temperature=self._temperature,
            max_tokens=self._max_tokens,
            seed=None if self._temperature == 0 else seed_for(*drawn) % SEEDS,
        )

    def _ask(self, schema: type[Form], requests: Sequence[Request], progress: Advance) -> list[Result[Form]]:
        """Replies in order; raises Stopped: see `Client.ask_all`."""
        results: list[Result[Form]] = []
        for reply in self.client.ask_all(requests, progress):
            done = reply.status == "done"
            results.append(Result(reply.parsed if done else None, None if done else reply.reason, reply.key))
        return results


class LLMAttacker(_Questions):
    """See `attacker.Attacker`; every list may raise `Stopped` (budget reached, key refused, server not there)."""

    near, opening = 0.7, 0.1  # Self-Instruct's threshold of ROUGE-L; ours

    @property
    def categories(self) -> dict[str, str]:
        """Of the file."""
        return self.file.categories

    def drafts(self, asked: Sequence[Assignment], progress: Advance = ignore) -> list[Result[Draft]]:
        """See `attacker.Attacker`."""
        return self._ask(Draft, [self.request("draft", Draft, one) for one in asked], progress)

    def twins(self, asked: Sequence[Assignment], progress: Advance = ignore) -> list[Result[Twin]]:
        """See `attacker.Attacker`."""
        return self._ask(Twin, [self.request("twin", Twin, one, _query(one)) for one in asked], progress)

    def refusals(self, asked: Sequence[Assignment], progress: Advance = ignore) -> list[Result[Refusal]]:
        """See `attacker.Attacker`."""
        return self._ask(Refusal, [self.request("refusal", Refusal, one, _query(one)) for one in asked], progress)


class LLMAttackJudge(_Questions):
    """See `attacker.AttackJudge`; every list may raise `Stopped`, as an attacker's."""

    def reviews(
        self, asked: Sequence[Assignment], texts: Sequence[str], progress: Advance = ignore
    ) -> list[Result[Review]]:
        """See `attacker.AttackJudge`."""
        pairs = zip(asked, texts, strict=True)
        return self._ask(Review, [self.request("review", Review, one, text) for one, text in pairs], progress)

    def words_alone(
        self, asked: Sequence[Assignment], texts: Sequence[str], progress: Advance = ignore
    ) -> list[Result[WordsAlone]]:
        """See `attacker.AttackJudge`."""
        pairs = zip(asked, texts, strict=True)
        return self._ask(WordsAlone, [self.request("alone", WordsAlone, one, text) for one, text in pairs], progress)


def _query(asked: Assignment) -> str:
    return asked.draft.query if asked.draft else ""
