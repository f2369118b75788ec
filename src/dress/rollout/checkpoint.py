"""Answers of a model that is in memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

from dress.base.progress import Advance, ignore
from dress.data.images import MAX_ASPECT
from dress.dialogue.image import Picture
from dress.dialogue.spans import Completion, prompt
from dress.kernels.packed import PackedWeights
from dress.model.generation import check_new_tokens, generate
from dress.model.lvlm import LVLM
from dress.model.sampling import SamplingParams
from dress.model.session import ImageTokens, Prompt, Session
from dress.record import RecordError
from dress.rollout.responder import Answer, OpenTurn, Responder, Sampling


class CkptResponder:
    """Answers with a model that is in memory.

    Args:
        model: the LVLM.
        name: what provenance calls it.
        keep_cache: go on from the keys and values of the turn before (`auto`: where they fit into
            memory), or read every prompt from its beginning.
        max_aspect: longer side ÷ shorter side of an image, at most.
    """

    def __init__(
        self, model: LVLM, name: str, keep_cache: Literal["auto", "on", "off"] = "auto", max_aspect: float = MAX_ASPECT
    ) -> None:
        self.model, self.name, self._keep = model, name, keep_cache
        self._reader = model.reader(max_aspect=max_aspect)
        self._packed: Callable[[], PackedWeights | None] = lambda: None  # of sessions that stand beside each other

    def preprocess(self, data: bytes, where: str) -> Picture:
        """The image as the model takes it.

        Raises:
            RecordError: the image does not decode, or is too narrow.
        """
        return self._reader(data, where)

    def answer(
        self, questions: Sequence[OpenTurn], pixels: Sequence[Picture], sampling: Sampling, progress: Advance = ignore
    ) -> list[Completion]:
        """See `Responder.answer`.

        Raises:
            RecordError: a system text, and the model's chat format has no place for one.
            ValueError: answers may be longer than the language model has positions.
        """
        prompts, params = self._prompts(questions, sampling)
        return generate(self.model, prompts, pixels, params, batch_size=sampling.batch_size, progress=progress)

    def stream(
        self, question: OpenTurn, picture: Picture | None, sampling: Sampling, watch: Callable[[str], bool]
    ) -> Completion:
        """One answer, shown while it is written.

        Args:
            question: `image` is not looked at.
            picture: of the question; None for none.
            sampling: greedy or sampled.
            watch: gets all that is written so far, at each token, as far as it stays; whether to end there. An answer
                that is ended so counts as cut.

        Raises:
            RecordError, ValueError: as `answer`.
        """
        pictures = [] if picture is None else [picture]
        prompts, params = self._prompts([replace(question, image=0 if pictures else None)], sampling)
        ids: list[int] = []

        def see(_: Hashable, token: int) -> bool:
            ids.append(token)
            return watch(self.model.encoder.begun(ids))

        session = Session(self.model, self.packed_weights())
        tokens = session.answer(prompts, [0], ImageTokens(self.model, pictures), params, watch=see)
        assert tokens is not None
        return self.model.encoder.decode(tokens[0])

    def packed_weights(self) -> PackedWeights:
        """Packed once, as long as anybody holds them."""
        weights = self._packed() or PackedWeights(self.model.language_model)
        self._packed = weakref.ref(weights)
        return weights

    def groups(self, dialogues: int, sampling: Sampling) -> Iterator[tuple[range, Responder]]:
        """See `Grouping`: as many as are decoded together. The model's weights must stay as they are meanwhile."""
        if self._keep == "off":
            yield range(dialogues), self
            return
        going_on = _GoingOn(self, Session(self.model, self.packed_weights()))
        for first in range(0, dialogues, sampling.batch_size):
            yield range(first, min(first + sampling.batch_size, dialogues)), going_on

    def answer_on(
        self, session: Session, questions: Sequence[OpenTurn], pixels: Sequence[Picture], sampling: Sampling
    ) -> list[Completion] | None:
        """The answers, where dialogues that the session has answered before are not read again; None: no memory."""
        prompts, params = self._prompts(questions, sampling)
        keys, images = [id(question.dialogue) for question in questions], ImageTokens(self.model, pixels)
        tokens = session.answer(prompts, keys, images, params, if_fits=self._keep == "auto")
        return None if tokens is None else [self.model.encoder.decode(ids) for ids in tokens]

    def _prompts(self, questions: Sequence[OpenTurn], sampling: Sampling) -> tuple[list[Prompt], SamplingParams]:
        check_new_tokens(self.model, sampling.max_new_tokens)
        chat = self.model.encoder.chat
        for question in questions:
            if question.dialogue.system and not chat.takes_system:
                raise RecordError(
                    f"{question.record.key}: system: expected none, since {chat.setting} has no place "
                    f"for it, got {question.dialogue.system!r:.80}"
                )
        prompts = [Prompt(tuple(prompt(one.dialogue, condition=one.condition)), one.image) for one in questions]
        seeds = [question.seed for question in questions]
        return prompts, SamplingParams(sampling.max_new_tokens, sampling.temperature, sampling.top_p, seeds)


class _GoingOn:
    """Goes on from what it has read of the same dialogues, as long as memory has room for it.

    Args:
        responder: of the model.
        session: of its own.
    """

    def __init__(self, responder: CkptResponder, session: Session) -> None:
        self.name, self.preprocess = responder.name, responder.preprocess
        self._responder = responder
        self._session: Session | None = session

    def answer(
        self, questions: Sequence[OpenTurn], pixels: Sequence[Picture], sampling: Sampling, progress: Advance = ignore
    ) -> Sequence[Answer]:
        """See `Responder.answer`."""
        if self._session is not None:
            answers = self._responder.answer_on(self._session, questions, pixels, sampling)
            if answers is not None:
                progress(len(answers))
                return answers
            self._session = None
        return self._responder.answer(questions, pixels, sampling, progress)
