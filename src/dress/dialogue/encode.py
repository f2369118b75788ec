"""Tokens and loss weights of a dialogue, made in one pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile

import numpy as np
from transformers import PreTrainedTokenizerBase

from dress.dialogue.chat import FORMATS, ChatFormat, Piece, pieces
from dress.dialogue.spans import Span, Supervised
from dress.record import RecordError

IMAGE = -1
"""Stands in `ids` for one token of the record's image; no tokenizer gives it."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """A dialogue as tokens: `ids` int64 [S]; `weights` float64 [S], the loss weight of predicting each."""

    phase: str
    ids: np.ndarray
    weights: np.ndarray


class Encoder:
    """Turns dialogues into tokens for one tokenizer, chat format and number of image tokens.

    Args:
        tokenizer: any Hugging Face tokenizer.
        chat: name of the chat format.
        image_tokens: tokens per image.
        max_tokens: longest dialogue.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, chat: str, image_tokens: int, max_tokens: int = 4096
    ) -> None:
        self.tokenizer = tokenizer
        self.chat: ChatFormat = FORMATS[chat]
        self.image_tokens = image_tokens
        self.max_tokens = max_tokens
        self._ids = lru_cache(maxsize=65536)(self._tokenise)

    @property
    def stop_id(self) -> int:
        """The token that ends an answer."""
        (stop,) = self._ids(self.chat.assistant_end)
        return stop

    def supervised(self, dialogue: Supervised, where: str) -> Encoded:
        """Tokens and weights of a dialogue to train on.

        Raises:
            RecordError: no supervised token, or more than `max_tokens`.
        """
        ids, weights = self._join(pieces(dialogue.spans, self.chat, dialogue.image))
        if not weights.any():
            raise RecordError(f"{where}: phase {dialogue.phase}: expected a supervised token, got none")
        if len(ids) > self.max_tokens:
            raise RecordError(
                f"{where}: phase {dialogue.phase}: expected at most data.max_tokens={self.max_tokens} tokens, "
                f"got {len(ids)}"
            )
        return Encoded(dialogue.phase, ids, weights)

    def length(self, dialogue: Supervised) -> int:
        """Tokens of a dialogue, the image's included, however many they are."""
        return len(self._join(pieces(dialogue.spans, self.chat, dialogue.image))[0])

    def prompt(self, spans: Iterable[Span], image: bool) -> list[int]:
        """Tokens up to where the next answer begins; the last span is the user's or a condition."""
        return self._join(pieces(tuple(spans), self.chat, image))[0].tolist()

    def decode(self, ids: Iterable[int]) -> str:
        """Text of generated tokens, up to the first stop token."""
        stop = self.stop_id
        answer = list(takewhile(lambda token: token != stop, ids))
        return str(self.tokenizer.decode(answer, skip_special_tokens=False)).strip()

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_ids"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._ids = lru_cache(maxsize=65536)(self._tokenise)

    def _join(self, parts: Iterable[Piece]) -> tuple[np.ndarray, np.ndarray]:
        image = np.full(self.image_tokens, IMAGE)
        found = [(image if part.image else self._ids(part.text), part.weight) for part in parts]
        ids = np.concatenate([new for new, _ in found])
        return ids, np.repeat([weight for _, weight in found], [len(new) for new, _ in found])

    def _tokenise(self, text: str) -> np.ndarray:
        return np.array(self.tokenizer.encode(text, add_special_tokens=False), np.int64)
