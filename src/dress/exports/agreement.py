"""Whether a server's model is the one in memory: their first greedy answers, compared before any other is used.

Two codes that compute the same model round differently. Where an answer parts from the expected one, it may do so at a
token that the model finds as good as its own, within what rounding can do; anywhere else it is another model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice, zip_longest
from typing import Any

import torch

from dress.data.shards import Sample
from dress.dialogue.encode import DialogueEncoder
from dress.dialogue.image import Picture
from dress.dialogue.spans import Completion, Span, SupervisedDialogue, prompt
from dress.exports.proof import answer_logits
from dress.model.lvlm import LVLM
from dress.record import CUT, Dialogue, Record, RecordError, Turn
from dress.rollout.checkpoint import CkptResponder
from dress.rollout.responder import Answer, OpenTurn, Sampling

NUMBER = 8
"""Questions that are compared."""
NEAR = {torch.float32: 0.01, torch.bfloat16: 0.25}
"""By what a model's answers are computed in: how much less likely, in nats, a token may be than the likeliest one and
be taken for it. Logits of large models are about 20; bfloat16 rounds them to an eighth."""
LIKELIEST = 64
"""Tokens whose probabilities are kept at each place."""


@dataclass(frozen=True)
class FirstQuestion:
    """A question to compare answers to."""

    record: Record
    image: bytes | None
    dialogue: Dialogue  # with this question alone
    condition: str


@dataclass(frozen=True)
class Expected:
    """What the model in memory answers.

    Attributes:
        asked: the question.
        answer: greedy.
        ids: tokens of the answer, with what ends it.
        behind: at each of them, token to how much less likely it is than the likeliest, in nats.
        picture: the image, as the model takes it.
    """

    asked: FirstQuestion
    answer: Completion
    ids: list[int]
    behind: list[dict[int, float]] = field(repr=False)
    picture: Picture | None = field(repr=False)


@dataclass(frozen=True)
class Compared:
    """One answer of a server, beside the expected one.

    Attributes:
        key: of the record that was asked about.
        question: what was asked.
        condition: under which.
        expected: text of the run's answer.
        answer: text of the folder's answer.
        nats: how much less likely the first token that differs is; 0 where none does, null where it is no likely one.
    """

    key: str
    question: str
    condition: str
    expected: str
    answer: str | None
    nats: float | None


@dataclass(frozen=True)
class Agreement:
    """How equal the answers are.

    Attributes:
        equal: answers that are the same text.
        near: further ones, which part at a token that is as good within `bound`.
        left_out: further ones that cannot be read again by the model (too long, or cut before they began): no text
            but the same says whether they are its own.
        bound: in nats.
        answers: all of them.
    """

    equal: int
    near: int
    left_out: int
    bound: float
    answers: list[Compared]

    @property
    def first_difference(self) -> Compared | None:
        """The first answer that is another model's; None: there is none."""
        return next((one for one in self.answers if one.nats is None or one.nats > self.bound), None)

    def facts(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def first_questions(samples: Sequence[Sample], conditions: Sequence[str]) -> list[FirstQuestion]:
    """The first questions, each under the next of the conditions.

    Args:
        samples: records with image bytes.
        conditions: texts; empty for none.
    """

    def every() -> Iterator[tuple[Record, bytes | None, Dialogue]]:
        for record, image in samples:
            for dialogue in record.dialogues:
                yield record, image, dialogue.model_copy(update={"turns": [Turn(user=dialogue.turns[0].user)]})

    return [
        FirstQuestion(*one, conditions[number % len(conditions)]) for number, one in enumerate(islice(every(), NUMBER))
    ]


def turns(asked: Sequence[FirstQuestion]) -> tuple[list[OpenTurn], list[bytes]]:
    """The questions as a responder is asked them, and their images."""
    images = [one.image for one in asked if one.image is not None]
    places = iter(range(len(images)))
    opened = [
        OpenTurn(one.record, one.dialogue, None if one.image is None else next(places), one.condition) for one in asked
    ]
    return opened, images


def expected_answers(responder: CkptResponder, asked: Sequence[FirstQuestion], sampling: Sampling) -> list[Expected]:
    """The greedy answers of a model in memory, with what else would be as good.

    Args:
        responder: of the model, whole on its device.
        asked: the questions; those whose image cannot be read are left out.
        sampling: longest answer and batch size.
    """
    readable: list[FirstQuestion] = []
    pictures: list[Picture | None] = []
    for one in asked:
        try:
            picture = None if one.image is None else responder.preprocess(one.image, one.record.key)
        except RecordError:
            continue
        readable.append(one)
        pictures.append(picture)
    if not readable:
        return []
    greedy, model = Sampling(sampling.max_new_tokens, sampling.batch_size), responder.model
    answers = responder.answer(turns(readable)[0], [one for one in pictures if one is not None], greedy)
    training = model.training
    model.eval()
    try:
        return [
            Expected(one, answer, *_likely(model, one, answer, picture), picture)
            for one, answer, picture in zip(readable, answers, pictures, strict=True)
        ]
    finally:
        model.train(training)


def compare(
    expected: Sequence[Expected], answers: Sequence[Answer], encoder: DialogueEncoder, bound: float
) -> Agreement:
    """How equal a server's answers are.

    Args:
        expected: by the model in memory.
        answers: of the server, to the same questions.
        encoder: of the model.
        bound: see `NEAR`.
    """
    compared, left_out = list[Compared](), 0
    for one, answer in zip(expected, answers, strict=True):
        try:
            nats = _nats(one, answer, encoder) if isinstance(answer, str) else None
        except RecordError:
            left_out += 1
            continue
        text = str(answer) if isinstance(answer, str) else None
        question = one.asked.dialogue.turns[-1].user
        compared.append(Compared(one.asked.record.key, question, one.asked.condition, str(one.answer), text, nats))
    equal = sum(one.answer == one.expected for one in compared)
    agreed = sum(one.nats is not None and one.nats <= bound for one in compared)
    return Agreement(equal, agreed - equal, left_out, bound, compared)


def _spans(asked: FirstQuestion, answer: str) -> tuple[Span, ...]:
    cut = getattr(answer, "finish_reason", None) == CUT
    before = prompt(asked.dialogue, condition=asked.condition)
    return (*before, Span("assistant", str(answer), 1.0, cut))


def _likely(
    model: LVLM, asked: FirstQuestion, answer: Completion, picture: Picture | None
) -> tuple[list[int], list[dict[int, float]]]:
    """Tokens of an answer, and what would be as good at each."""
    with torch.no_grad():
        try:
            ids, places, logits = answer_logits(model, _spans(asked, answer), picture)
        except RecordError:  # an empty answer that was cut, or one too long to be read again
            return [], []
    likeliest = logits.float().log_softmax(-1).topk(min(LIKELIEST, logits.shape[-1]))
    behind = [
        {token: values[0] - value for token, value in zip(tokens, values, strict=True)}
        for tokens, values in zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
    ]
    return [ids[place] for place in places], behind


def _nats(expected: Expected, answer: str, encoder: DialogueEncoder) -> float | None:
    """How much less likely an answer's first other token is; None where it is no likely one.

    Raises:
        RecordError: the model cannot read one of both again.
    """
    if str(answer) == str(expected.answer):
        return 0.0
    if not expected.ids:
        raise RecordError(f"{expected.asked.record.key}: its answer cannot be read again")
    dialogue = SupervisedDialogue("sft", _spans(expected.asked, answer), expected.picture is not None)
    layout = expected.picture.layout if expected.picture else None
    encoded = encoder.supervised(dialogue, "", layout)
    ids = encoded.ids[encoded.weights > 0].tolist()
    for place, (ours, theirs) in enumerate(zip_longest(expected.ids, ids)):
        if ours != theirs:
            behind = expected.behind[place] if place < len(expected.behind) else {}
            return behind.get(theirs)
    return None
