"""One thread that answers, one question after another, and says what it writes while it does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from dress.config.names import check_name
from dress.dialogue.spans import Completion, prompt
from dress.record import CUT, Record
from dress.rollout.checkpoint import CkptResponder
from dress.rollout.loaded_model import LoadedModel
from dress.rollout.responder import OpenTurn, Sampling
from dress.serving.requests import Question

KEY = "served"
"""Of the record that a question is about."""


@dataclass(frozen=True)
class Written:
    """A whole answer, and how many tokens its prompt and itself have."""

    completion: Completion
    prompt_tokens: int
    tokens: int


class Engine:
    """Answers with a model that is in memory.

    Args:
        model: of a run or a folder.

    Raises:
        ValueError: the model is behind a server.
    """

    def __init__(self, model: LoadedModel) -> None:
        if not isinstance(model.responder, CkptResponder):
            raise ValueError(f"expected a run or a model's folder, got a server's model {model.responder.name}")
        self.model, self._responder = model, model.responder
        self._weights = self._responder.packed_weights()  # held: packed once
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="answers")

    def condition(self, name: str | None, question: Question) -> str:
        """The text of a condition; None for the one that the model's training has for such a question.

        Raises:
            ValueError: the model knows none of this name.
        """
        own = self.model.advice_condition if question.advised else self.model.condition
        check_name("condition", name or own, list(self.model.conditions), "one of {}")
        return self.model.conditions[name or own]

    async def answer(
        self, question: Question, condition: str, sampling: Sampling, seed: int, stopped: threading.Event
    ) -> AsyncIterator[str | Written]:
        """What is written, piece by piece, and at last the whole answer.

        Args:
            question: with its picture.
            condition: text behind the last user text.
            sampling: how it is drawn.
            seed: of the draws.
            stopped: ends it, once it is set.

        Raises:
            ValueError: the picture does not decode, or the answer may be longer than the model has positions.
        """
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[str | None] = asyncio.Queue()

        def show(piece: str | None) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        work = self._thread.submit(self._write, question, condition, sampling, seed, stopped, show)
        try:
            work.add_done_callback(lambda _: show(None))
            while (piece := await pieces.get()) is not None:
                yield piece
            yield work.result()
        finally:
            stopped.set()

    def _write(
        self, question: Question, condition: str, sampling: Sampling, seed: int, stopped: threading.Event,
        show: Callable[[str | None], None],
    ) -> Written:  # fmt: skip
        if stopped.is_set():
            return Written(Completion("", CUT), 0, 0)
        written, tokens = "", 0

        def watch(text: str) -> bool:
            nonlocal written, tokens
            tokens += 1
            if len(text) > len(written):
                show(text[len(written) :])
                written = text
            return stopped.is_set()

        data = question.picture
        picture = None if data is None else self._responder.preprocess(data, "image")
        turn = OpenTurn(Record(key=KEY), question.dialogue, None, condition, seed)
        whole = self._responder.stream(turn, picture, sampling, watch)
        if len(whole) > len(written):
            show(whole[len(written) :])
        spans = tuple(prompt(question.dialogue, condition=condition))
        read = self._responder.model.encoder.prompt(spans, None if picture is None else picture.layout)
        return Written(whole, len(read.ids), tokens)

    def close(self) -> None:
        """Begin nothing more."""
        self._thread.shutdown(wait=True, cancel_futures=True)
