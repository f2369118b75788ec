"""Answers of a server."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from dress.base.progress import Advance, ignore
from dress.dialogue.spans import Completion
from dress.llm.interface import Client
from dress.llm.request import Message, Request
from dress.record import Dialogue
from dress.rollout.responder import Answer, NoAnswer, OpenTurn, Sampling

ANSWER_VERSION = "answer-1"
"""Of the messages that a server's answers are asked with."""
SERVER_TOKENS = 512
"""Longest answer of a server where `max_new_tokens` is null (ours)."""
SEEDS = 2**31
"""Servers take whole numbers below this as seeds."""
LOG = logging.getLogger(__name__)


class ServerResponder:
    """Answers by way of an OpenAI-compatible server; every call goes through the ledger.

    Asked under a condition, it warns once where the server's model holds one in its chat template already. That is
    known of a folder of this machine alone, by the model's name or by what the server says it was read from (`root` of
    vLLM's `/v1/models`); of any other model nobody knows, and nothing is said.

    A server gives what the model wrote, also the gap that its chat format has before an answer, and white space
    behind it. Both are taken off, as of a run's own answers: where they are given, or the model's name is the folder of
    an exported model of this machine.

    Args:
        client: a server's, or a replay's.
        sees_image: send the image with the first user message.
        system: message before all others; None for none. A dialogue's own stands in its place.
        around: gap and tail of the chat format; None: as said.
    """

    def __init__(
        self, client: Client, sees_image: bool = True, system: str | None = None,
        around: tuple[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.client, self.name = client, client.model
        self._sees_image, self._system, self._looked = sees_image, system, False
        self._around = around or (_gap(self.name), "")

    def preprocess(self, data: bytes, where: str) -> bytes:
        """The bytes as they are."""
        return data

    def answer(
        self, questions: Sequence[OpenTurn], pixels: Sequence[bytes], sampling: Sampling, progress: Advance = ignore
    ) -> list[Answer]:
        """See `Responder.answer`."""
        if not self._looked and (condition := next((one.condition for one in questions if one.condition), "")):
            self._looked = True
            self._warn_of_two(condition)
        requests = [
            Request(
                self._messages(question.dialogue, question.condition),
                prompt_version=ANSWER_VERSION,
                image=None if question.image is None or not self._sees_image else pixels[question.image],
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_new_tokens,
                seed=None if sampling.temperature == 0 else question.seed % SEEDS,
            )
            for question in questions
        ]
        replies = self.client.ask_all(requests, lambda n=1, info="": progress(n))
        return [
            Completion(self._inner(reply.text or "", reply.reason), reply.reason)
            if reply.status == "done"
            else NoAnswer(str(reply.reason), reply.key)
            for reply in replies
        ]

    def replay(self) -> ServerResponder:
        """The same with what the ledger holds; asks nobody."""
        replayed = ServerResponder(self.client.replay(), self._sees_image, self._system, self._around)
        replayed._looked = True
        return replayed

    def _inner(self, text: str, reason: str | None) -> str:
        """An answer without what its chat format has around it."""
        gap, tail = self._around
        text = text.removeprefix(gap)
        return text.removesuffix(tail) if reason == "stop" else text

    def _warn_of_two(self, condition: str) -> None:
        """Say so where the server's chat template holds a condition beside this one."""
        from dress.model.export_facts import template_condition

        model = self.client.model
        folder = model if os.path.isdir(model) else self.client.origin()
        own = template_condition(Path(folder)) if os.path.isdir(folder) else None
        if own is not None:
            LOG.warning(
                f"server.model={model}: the chat template in {folder} already asks under {own!r:.80}, and these "
                f"questions stand under {condition!r:.80}: the model reads both. Ask without a condition, or serve the "
                f"template that holds none (vLLM: --chat-template)"
            )

    def _messages(self, dialogue: Dialogue, condition: str) -> tuple[Message, ...]:
        system = self._system if dialogue.system is None else dialogue.system
        messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        for turn in dialogue.turns[:-1]:
            messages += [
                {"role": "user", "content": turn.user},
                {"role": "assistant", "content": turn.assistant or ""},
            ]
        user = dialogue.turns[-1].user
        return (*messages, {"role": "user", "content": f"{user} {condition}" if condition else user})


def _gap(model: str) -> str:
    """What a model writes before an answer's text, where its name is the folder of an exported one."""
    if not os.path.isdir(model):
        return ""
    from dress.model.export_facts import read_export

    facts = read_export(Path(model))
    return "" if facts is None else facts.gap
