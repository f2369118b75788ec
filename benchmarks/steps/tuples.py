"""Feedback tuples of random words: the same for every arm, as dialogues and as rows.

A tuple is an image and a question, a chain of answers with advice between them, and answers that
stand after a critique. Lengths are in tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from dress.dialogue.encode import IMAGE, EncodedDialogue

PATCH = 14


@dataclass(frozen=True)
class Shape:
    """How long the parts of a tuple are, and how many there are of them."""

    image: int = 256
    question: int = 44
    answer: int = 120
    advice: int = 50
    chain: int = 3  # answers in the chain of refinements
    critiques: int = 3  # answers that stand after a critique
    critique: int = 50
    words: int = 49_000  # ordinary ids; those above are special (models.tokenizer)
    picture: tuple[int, int] | None = None  # width and height; None: the square that gives `image` tokens

    @property
    def side(self) -> int:
        """Pixels of the square image that gives `image` tokens."""
        return PATCH * round(self.image**0.5)


STD = {"STD-256": Shape(), "STD-576": Shape(image=576)}
TOY = Shape(image=16, question=6, answer=8, advice=5, critique=5, words=100)


@dataclass(frozen=True)
class Turn:
    """Tokens of one message; `weight` is 1 where loss is taken on them."""

    role: str
    ids: tuple[int, ...]
    weight: float = 0.0


@dataclass(frozen=True)
class Tuple:
    """One image with its dialogues, as turns; the image stands first in the first."""

    shape: Shape
    picture: Image.Image | None
    dialogues: tuple[tuple[Turn, ...], ...]

    def encoded(self) -> list[EncodedDialogue]:
        """Dialogues as the trainer takes them."""
        out = []
        for number, turns in enumerate(self.dialogues):
            image = [IMAGE] * self.shape.image if self.picture else []
            ids = image + [i for turn in turns for i in turn.ids]
            weights = [0.0] * len(image) + [turn.weight for turn in turns for _ in turn.ids]
            out.append(EncodedDialogue("critique" if number else "refinement", np.array(ids), np.array(weights)))
        return out

    def rows(self, merged: bool) -> list[tuple[Turn, ...]]:
        """One row per supervised answer, or (merged) per dialogue with loss on each of its answers."""
        if merged:
            return list(self.dialogues)
        rows = []
        for turns in self.dialogues:
            for end, turn in enumerate(turns):
                if turn.weight:
                    rows.append((*(Turn(t.role, t.ids) for t in turns[:end]), turn))
        return rows


def make(shape: Shape, seed: int, image: bool = True) -> Tuple:
    """A tuple of random words over random pixels.

    Args:
        shape: its lengths.
        seed: of words and pixels.
        image: with a picture; without one, `shape.image` further words stand in its place.
    """
    rng = np.random.default_rng(seed)

    def words(size: int) -> tuple[int, ...]:
        return tuple(rng.integers(0, shape.words, size).tolist())

    side = shape.side if shape.picture is None else 8  # a given size in large soft squares, as PNGs of photographs
    picture = Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)) if image else None
    if picture and shape.picture:
        picture = picture.resize(shape.picture, Image.Resampling.BICUBIC)
    ask = Turn("user", words(shape.question + (0 if image else shape.image)))
    chain = [ask]
    for number in range(shape.chain):
        if number:
            chain.append(Turn("user", words(shape.advice)))
        chain.append(Turn("assistant", words(shape.answer), 1.0))
    dialogues = [tuple(chain)] if shape.chain else []
    for _ in range(shape.critiques):
        critique = Turn("user", ask.ids + words(shape.critique))
        dialogues.append((critique, Turn("assistant", words(shape.answer), 1.0)))
    return Tuple(shape, picture, tuple(dialogues))


def unique_tokens(shape: Shape) -> int:
    """Tokens of the tuple's tree."""
    chain = shape.chain * shape.answer + max(0, shape.chain - 1) * shape.advice
    return shape.image + shape.question + chain + shape.critiques * (shape.critique + shape.answer)
