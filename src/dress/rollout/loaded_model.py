"""A trained model, or one behind a server, that is asked from Python: `dress.load("logs/latest")`."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

from PIL import Image
from pydantic import PrivateAttr

from dress.base.seeding import seed_for
from dress.config.checking import check_as
from dress.config.names import check_name
from dress.config.types import Count, Positive, Real, Section, TopP
from dress.data.images import TURNS, orientation, rgb
from dress.record import Dialogue, Feedback, Record, RecordError, Turn
from dress.rollout.conversation import answer_fields
from dress.rollout.responder import NoAnswer, OpenTurn, Responder, Sampling

Picture = str | os.PathLike[str] | bytes | Image.Image | None
"""A file, its bytes, an image of Pillow's, or no picture at all."""
NAME = "asked"
"""Key of the record that a question is about."""


class Drawing(Section):
    """How answers are drawn."""

    temperature: Real = 0.0  # 0 = greedy
    top_p: TopP = 1.0
    max_new_tokens: Positive | None = None  # null = as in the run; 512 of a server
    seed: Count = 0
    batch_size: Positive = 256  # questions that are answered together


class PicturedDialogue(Dialogue):
    """A dialogue that remembers the picture it is about."""

    _picture: bytes | None = PrivateAttr(default=None)


@dataclass(frozen=True)
class ModelAnswer:
    """An answer, and the dialogue that it ends.

    Attributes:
        text: None where there is none.
        finish_reason: `stop` (it ended by itself), `length` (it was cut), or a server's own word; None: nobody knows.
        dialogue: with this answer as its last; it remembers its picture.
        failed: why there is no answer.
    """

    text: str | None
    finish_reason: str | None
    dialogue: Dialogue = field(repr=False)
    failed: str | None = None

    def __str__(self) -> str:
        return self.text or ""


class LoadedModel:
    """Answers questions on pictures, and takes advice as the next turn.

    Args:
        responder: who answers.
        max_new_tokens: longest answer, where nothing else is asked for.
        conditions: name to text of what may stand after a question.
        condition: name of the one under which first questions are asked.
        advice_condition: name of the one under which advice is followed.
    """

    def __init__(
        self, responder: Responder, max_new_tokens: int, conditions: Mapping[str, str] | None = None,
        condition: str = "none", advice_condition: str = "none",
    ) -> None:  # fmt: skip
        self.responder, self.max_new_tokens = responder, max_new_tokens
        self.conditions = dict(conditions or {"none": ""})
        self.condition, self.advice_condition = condition, advice_condition

    def __repr__(self) -> str:
        return f"<{self.responder.name}, asked under {self.condition}>"

    @overload
    def answer(self, picture: Picture, question: str, condition: str | None = None, **drawing: Any) -> ModelAnswer: ...

    @overload
    def answer(
        self, picture: list[Any] | Picture, question: list[str], condition: str | None = None, **drawing: Any
    ) -> list[ModelAnswer]: ...

    @overload
    def answer(
        self, picture: list[Any], question: str, condition: str | None = None, **drawing: Any
    ) -> list[ModelAnswer]: ...

    def answer(self, picture: Any, question: Any, condition: str | None = None, **drawing: Any) -> Any:
        """The answer to a question on a picture; of lists, all of them in order, in batches.

        Args:
            picture: a file, bytes, an image of Pillow's, None for a question without one, or a list of them.
            question: a text, or a list of as many as there are pictures; where one of the two is no list, it
                stands for all.
            condition: what the question is asked under, one of `conditions`; None for the model's own.
            drawing: `temperature` (0 = greedy), `top_p`, `max_new_tokens`, `seed`, `batch_size`.

        Raises:
            ValueError: no such condition, lists of different lengths, or (of a single question) no answer, because the
                picture does not decode or the server gave none. In a list such an answer says why in `failed`.
            OSError: a file that cannot be read.
        """
        lists = [one for one in (picture, question) if isinstance(one, list | tuple)]
        number = len(lists[0]) if lists else 1
        if any(len(one) != number for one in lists):
            raise ValueError(f"expected as many questions as pictures, got {len(question)} and {len(picture)}")
        files = [_bytes(one) for one in picture] if isinstance(picture, list | tuple) else [_bytes(picture)] * number
        questions = question if isinstance(question, list | tuple) else [question] * number
        dialogues = [
            _dialogue(file, [Turn(user=_text("question", text))]) for file, text in zip(files, questions, strict=True)
        ]
        answers = self._answers(dialogues, condition or self.condition, drawing)
        return answers if lists else _only(answers)

    def improve(
        self, dialogue: Dialogue | ModelAnswer, advice: str, condition: str | None = None,
        picture: Picture = None, **drawing: Any,
    ) -> ModelAnswer:  # fmt: skip
        """The next answer of a dialogue, with the advice as the user's next turn.

        Args:
            dialogue: or the answer that ends it; it stays as it is.
            advice: what to do better.
            condition: as in `answer`; None for the one under which the model's training followed advice.
            picture: of a dialogue that remembers none.
            drawing: as in `answer`.

        Raises:
            ValueError, OSError: as `answer`, or the dialogue's last turn has no answer.
        """
        before = dialogue.dialogue if isinstance(dialogue, ModelAnswer) else dialogue
        if not isinstance(before, Dialogue):
            raise ValueError(f"dialogue: expected what model.answer(…) returned, or a Dialogue, got {before!r:.80}")
        last = before.turns[-1]
        if last.assistant is None:
            raise ValueError("dialogue: expected an answer in its last turn, got none; ask it first: model.answer(…)")
        shown = before._picture if isinstance(before, PicturedDialogue) else None
        advised = last.model_copy(update={"feedback": [*last.feedback, Feedback(refinement=_text("advice", advice))]})
        after = _dialogue(
            shown if picture is None else _bytes(picture), [*before.turns[:-1], advised, Turn(user=advice)], before
        )
        return _only(self._answers([after], condition or self.advice_condition, drawing))

    def _answers(
        self, dialogues: Sequence[PicturedDialogue], condition: str, drawing: dict[str, Any]
    ) -> list[ModelAnswer]:
        check_name("condition", condition, list(self.conditions), "one of {}")
        drawn, text = check_as(Drawing, drawing), self.conditions[condition]
        sampling = Sampling(
            drawn.max_new_tokens or self.max_new_tokens, drawn.batch_size, drawn.temperature, drawn.top_p
        )
        record, answers = Record(key=NAME), list[Any]()
        for first in range(0, len(dialogues), drawn.batch_size):
            batch = dialogues[first : first + drawn.batch_size]
            pixels, places, unusable = self._seen(one._picture for one in batch)
            asked = {number: one for number, one in enumerate(batch, first) if one._picture not in unusable}
            questions = [
                OpenTurn(record, one, places.get(one._picture), text, seed_for(drawn.seed, number))
                for number, one in asked.items()
            ]
            drawn_answers = iter(self.responder.answer(questions, pixels, sampling) if questions else [])
            answers += [
                NoAnswer(unusable[one._picture]) if one._picture in unusable else next(drawn_answers) for one in batch
            ]
        return [self._ended(one, answer) for one, answer in zip(dialogues, answers, strict=True)]

    def _seen(
        self, pictures: Iterable[bytes | None]
    ) -> tuple[list[Any], dict[bytes | None, int], dict[bytes | None, str]]:
        """What the responder needs of the different pictures, where each is among it, and why one cannot be used."""
        pixels: list[Any] = []
        places: dict[bytes | None, int] = {}
        unusable: dict[bytes | None, str] = {}
        for picture in dict.fromkeys(pictures):
            if picture is None:
                continue
            try:
                pixels.append(self.responder.preprocess(picture, "picture"))
                places[picture] = len(pixels) - 1
            except RecordError as error:
                unusable[picture] = str(error)
        return pixels, places, unusable

    def _ended(self, dialogue: PicturedDialogue, answer: str | NoAnswer) -> ModelAnswer:
        turn = dialogue.turns[-1].model_copy(update=answer_fields(answer, self.responder.name))
        ended = _dialogue(dialogue._picture, [*dialogue.turns[:-1], turn], dialogue)
        if isinstance(answer, NoAnswer):
            return ModelAnswer(None, None, ended, answer.reason)
        return ModelAnswer(str(answer), turn.provenance.get("finish_reason"), ended)


def _dialogue(picture: bytes | None, turns: Sequence[Turn], like: Dialogue | None = None) -> PicturedDialogue:
    """A dialogue with these turns; all else is that of another one."""
    rest = {} if like is None else {name: getattr(like, name) for name in Dialogue.model_fields if name != "turns"}
    dialogue = PicturedDialogue(turns=list(turns), **rest)
    dialogue._picture = picture
    return dialogue


def _bytes(picture: Picture) -> bytes | None:
    """A whole image file.

    Raises:
        ValueError: nothing that could be a picture.
        OSError: the file cannot be read.
    """
    if picture is None or isinstance(picture, bytes):
        return picture
    if isinstance(picture, Image.Image):
        upright, turn, out = rgb(picture), orientation(picture), io.BytesIO()
        (upright if turn == 1 else upright.transpose(TURNS[turn])).save(out, "PNG")
        return out.getvalue()
    if isinstance(picture, str | os.PathLike):
        return Path(picture).read_bytes()
    raise ValueError(f"picture: expected a file, bytes, an image of Pillow's or None, got {type(picture).__name__}")


def _text(name: str, text: Any) -> str:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{name}: expected a text, got {text!r:.80}")
    return text


def _only(answers: Sequence[ModelAnswer]) -> ModelAnswer:
    """The one answer.

    Raises:
        ValueError: it could not be had.
    """
    (answer,) = answers
    if answer.text is None:
        raise ValueError(f"no answer: {answer.failed}")
    return answer
