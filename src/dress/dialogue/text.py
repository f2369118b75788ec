"""Texts as tokens, with no regard to control tokens: words that look like one are text."""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import lru_cache
from typing import Any

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase

LEAD = "\U0010fffd{}\U0010fffd"
"""A token before a text that does not stand first: tokenizers that put a blank before the first word see it."""


class TextTokenizer:
    """Ids of a tokenizer for texts, none of them a control token's.

    `split_special_tokens` of Transformers is not enough: tokens that were added without being called special are
    still found in texts, and a Unigram model finds `</s>` among its pieces. So this is a copy of the tokenizer
    that does not know them.

    Args:
        tokenizer: with a backend of the tokenizers library.
        controls: the tokens that a chat format uses, special or not; all special ones are control tokens too.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, controls: Collection[str]) -> None:
        added = tokenizer.added_tokens_decoder
        self.control_ids = frozenset(
            [number for number, token in added.items() if token.special or token.content in controls]
            + [tokenizer.get_vocab()[text] for text in controls]
        )
        hidden = {added[number].content for number in self.control_ids if number in added} | set(controls)
        self._state = json.dumps(_without(json.loads(tokenizer.backend_tokenizer.to_str()), hidden))
        self._ids = {token.content: number for number, token in added.items() if token.content not in hidden}
        self._open()

    def encode(self, text: str, first: bool) -> list[int]:
        """Ids of a text.

        Args:
            text: any.
            first: nothing stands before it.
        """
        if not text:
            return []
        if first:
            return self._named(self._backend.encode(text, add_special_tokens=False).ids)
        lead, backend = self._lead(text)
        return self._named(backend.encode(lead + text, add_special_tokens=False).ids[1:])

    def places(self, text: str) -> list[tuple[int, int]]:
        """Characters [start, end) of each token of a text that does not stand first."""
        lead, backend = self._lead(text)
        offsets = backend.encode(lead + text, add_special_tokens=False).offsets[1:]
        return [(max(0, start - len(lead)), end - len(lead)) for start, end in offsets]

    def _lead(self, text: str) -> tuple[str, Tokenizer]:
        """A token that is not in a text, and a tokenizer that knows it."""
        number = 0
        while (lead := LEAD.format(number)) in text:
            number += 1
        return lead, self._led(number)

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in ("control_ids", "_state", "_ids")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def _open(self) -> None:
        self._backend = Tokenizer.from_str(self._state)
        own = {name: self._backend.token_to_id(name) for name in self._ids}
        self._moved = {other: self._ids[name] for name, other in own.items() if other != self._ids[name]}
        self._led = lru_cache(maxsize=2)(self._with_lead)
        self.adds_blank = self.encode("x", False) == self.encode(" x", False)
        """Whether a text that begins with a blank gives the same ids as without it."""

    def _with_lead(self, number: int) -> Tokenizer:
        backend = Tokenizer.from_str(self._state)
        backend.add_tokens([AddedToken(LEAD.format(number), special=False, normalized=False)])
        return backend

    def _named(self, ids: list[int]) -> list[int]:
        """In the tokenizer's own numbers: an added token of the copy may have another one."""
        return [self._moved.get(number, number) for number in ids] if self._moved else ids


def _without(state: dict[str, Any], hidden: set[str]) -> dict[str, Any]:
    """A tokenizer's JSON in which no text gives one of the hidden tokens; all other ids stay."""
    model = state["model"]

    def name(piece: str) -> str:
        return f"\0hidden {piece}\0" if piece in hidden else piece

    if isinstance(model.get("vocab"), dict):
        model["vocab"] = {name(piece): number for piece, number in model["vocab"].items()}
    elif isinstance(model.get("vocab"), list):  # Unigram: pieces with scores
        model["vocab"] = [[name(piece), score] for piece, score in model["vocab"]]
    if model.get("unk_token") is not None:
        model["unk_token"] = name(model["unk_token"])
    if model.get("merges"):
        pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
        model["merges"] = [pair for pair in pairs if not {*pair, "".join(pair)} & hidden]
    added = [token for token in state["added_tokens"] if token["content"] not in hidden]
    return state | {"added_tokens": added, "post_processor": None, "truncation": None, "padding": None}
