"""Tokens and loss weights of a dialogue, made in one pass."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from typing import Any

import jinja2
import numpy as np
from transformers import PreTrainedTokenizerBase

from dress.dialogue.chat import Chat, ChatFormat, Piece
from dress.dialogue.image import ImageLayout
from dress.dialogue.spans import AnswerFacts, Completion, Span, SupervisedDialogue
from dress.dialogue.text import TextTokenizer
from dress.record import CUT, RecordError

IMAGE = -1
"""Stands in `ids` for one token of the record's image; no tokenizer gives it."""
HALF = "\ufffd"
"""What a decoder writes for a part of a character."""
BYTE = re.compile("<0x[0-9A-F]{2}>")
"""A token that is one byte, of tokenizers that fall back to them."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """A sequence of S tokens.

    Attributes:
        ids: int64 [S]; IMAGE for image tokens.
        positions: int64 [P, S] for rotary embeddings; None: as they follow each other.
        until: int64 [S], one past the last token that each sees; None: no token sees what stands behind it.
    """

    ids: np.ndarray
    positions: np.ndarray | None = None
    until: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class EncodedDialogue:
    """A dialogue as tokens: `ids` int64 [S]; `weights` float64 [S], the loss weight of predicting each.

    `positions` and `until` as in `Tokens`; `answer` as in `SupervisedDialogue`.
    """

    phase: str
    ids: np.ndarray
    weights: np.ndarray
    positions: np.ndarray | None = None
    until: np.ndarray | None = None
    answer: AnswerFacts | None = None

    @property
    def targets(self) -> np.ndarray:
        """The tokens that have a weight."""
        return self.ids[self.weights > 0]

    @property
    def key(self) -> str:
        """A digest of tokens and weights."""
        return hashlib.blake2b(self.ids.tobytes() + self.weights.tobytes(), digest_size=12).hexdigest()


class DialogueEncoder:
    """Turns dialogues into tokens for one tokenizer and chat format.

    Texts stand as they are, white space and words that look like control tokens included. A run of text between
    two control tokens is tokenised as one, but for answers: generation begins there. Before all stands what the
    tokenizer puts before plain text (BOS), unless its own chat template has none.

    Args:
        tokenizer: any Hugging Face tokenizer with a backend of the tokenizers library.
        chat: the format.
        max_tokens: longest dialogue.
        stops: further tokens that end an answer, and that no answer is taught.
        markers: control text that may stand around an image's tokens.

    Raises:
        ValueError: what ends an answer is not one token.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, chat: Chat, max_tokens: int = 4096, stops: Collection[int] = (),
        markers: Collection[str] = (),
    ) -> None:  # fmt: skip
        self.tokenizer, self.chat, self.max_tokens = tokenizer, chat, max_tokens
        self.stop_id = _stop(tokenizer, chat)
        """The token that ends an answer, as it is taught."""
        self.stops = frozenset({self.stop_id, *stops, *map(tokenizer.get_vocab().__getitem__, chat.stops)})
        """All tokens that end one."""
        texts = (*chat.control, *markers)
        controls = {*(text for text in _added(tokenizer) if any(text in one for one in texts)), chat.end}
        self._control = {text: tokenizer.get_vocab()[text] for text in controls}
        self.texts = TextTokenizer(tokenizer, controls)
        added = [token for token in tokenizer.added_tokens_decoder.values() if token.content in controls]
        self._strips_left = {token.content for token in added if token.lstrip}
        self._strips_right = {token.content for token in added if token.rstrip}
        self.apart = False
        """Whether the tokenizer would merge a prompt's end with an answer's beginning; here they never are one."""
        self.before = before_all(tokenizer, chat)
        """Tokens that stand before every dialogue."""
        self._begin()

    @property
    def control_ids(self) -> frozenset[int]:
        """Tokens that no text gives."""
        return self.texts.control_ids

    def supervised(self, dialogue: SupervisedDialogue, where: str, image: ImageLayout | None) -> EncodedDialogue:
        """Tokens and weights of a dialogue to train on.

        Args:
            dialogue: with or without an image.
            where: to name in an error.
            image: of the record; stands in a dialogue that has one.

        Raises:
            RecordError: no supervised token, more than `max_tokens`, or a system text without a place.
        """
        try:
            tokens, weights = self._join(self.chat.pieces(dialogue.spans, dialogue.image), image)
        except RecordError as error:
            raise RecordError(f"{where}: phase {dialogue.phase}: {error}") from None
        if not weights.any():
            raise RecordError(f"{where}: phase {dialogue.phase}: expected a supervised token, got none")
        if len(weights) > self.max_tokens:
            raise RecordError(
                f"{where}: phase {dialogue.phase}: expected at most data.max_tokens={self.max_tokens} tokens, "
                f"got {len(weights)}{_of_image(image if dialogue.image else None)}"
            )
        return EncodedDialogue(dialogue.phase, tokens.ids, weights, tokens.positions, tokens.until, dialogue.answer)

    def length(self, dialogue: SupervisedDialogue, image: ImageLayout | None) -> int:
        """Tokens of a dialogue, the image's included, however many they are; 0 where its system text has no place."""
        try:
            return len(self._join(self.chat.pieces(dialogue.spans, dialogue.image), image)[1])
        except RecordError:  # named when it is trained on
            return 0

    def prompt(self, spans: Iterable[Span], image: ImageLayout | None) -> Tokens:
        """Tokens up to where the next answer begins; the last span is the user's or a condition.

        Raises:
            RecordError: a system text, and the chat format has no place for one.
        """
        return self._join(self.chat.pieces(tuple(spans), image is not None), image)[0]

    def decode(self, ids: Iterable[int]) -> Completion:
        """The answer of generated tokens, up to the first stop token; without one it was cut."""
        every = list(ids)
        answer = list(takewhile(lambda token: token not in self.stops, every))
        text, stopped = self.text(answer).removeprefix(self._prefix), len(answer) < len(every)
        return Completion(text.removesuffix(self.chat.tail), "stop") if stopped else Completion(text, CUT)

    def begun(self, ids: Iterable[int]) -> str:
        """What of an unfinished answer no later token changes; `decode` of the whole begins with it."""
        written = [token for token in ids if token not in self.stops]
        while written and BYTE.fullmatch(str(self.tokenizer.convert_ids_to_tokens(written[-1]))):
            written.pop()  # a run of bytes is one text or, if it is none, another
        text = self.text(written)
        if self._prefix.startswith(text):
            return ""
        text = text.removeprefix(self._prefix).rstrip(HALF)
        tail = next((n for n in range(len(self.chat.tail), 0, -1) if text.endswith(self.chat.tail[:n])), 0)
        return text[: len(text) - tail]

    def text(self, ids: list[int]) -> str:
        """Exactly what tokens say behind the opening of an answer: decoders drop a blank that stands first."""
        before = self._opening
        both = self._decoded(before + ids)
        head = self._decoded(before)
        return both[len(head) :] if both.startswith(head) else self._decoded(ids)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_answer", "_run", "_split")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def _begin(self) -> None:
        self._run = lru_cache(maxsize=65536)(lambda text, first: np.array(self.texts.encode(text, first), np.int64))
        self._answer = lru_cache(maxsize=65536)(self._after)
        longest_first = sorted(self._control, key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(map(re.escape, longest_first))})").split
        opening, gap = Piece(self.chat.opening, "control"), self.chat.gap
        self._opening = self._join([opening], None)[0].ids.tolist()
        first = self._join([opening, Piece(gap + "x", "answer", 1.0)], None)
        said = self.text(first[0].ids[first[1] > 0].tolist())
        self._prefix = said[:-1] if said.endswith(f"{gap}x") else gap
        """What generated tokens say before an answer's text: the format's gap, or a blank that tokenizers add."""

    def _join(self, parts: Iterable[Piece], image: ImageLayout | None) -> tuple[Tokens, np.ndarray]:
        """Tokens of pieces in order, and their loss weights; `image` stands where a piece says so."""
        chunks: list[tuple[np.ndarray, float | np.ndarray]] = [(np.array(self.before, np.int64), 0.0)]
        run, context, first, stripping = "", "", True, False
        for part in _with_image(parts, image):
            stripping = stripping and (part.kind in ("control", "written") or not part.text)
            match part.kind:
                case "text":
                    run, context = run + part.text, ""
                case "image":
                    chunks += [(self._run(run, first), 0.0), (np.full(int(part.text), IMAGE), 0.0)]
                    run, context, first = "", "", False
                case "answer":
                    ids = self._answer(context, part.text)
                    weight = self._marked(context, part, len(ids)) if part.marks else part.weight
                    chunks += [(self._run(run, first), 0.0), (ids, weight)]
                    run, context, first = "", "", False
                case "control" | "written":
                    if part.kind == "written":  # begins where a prompt ends
                        chunks.append((self._run(run, first), 0.0))
                        run, context, first = "", "", first and not run
                    for text, token in self._tokens_in(part.text):
                        text = text.lstrip() if stripping else text
                        run, context, stripping = run + text, context + text, stripping and not text
                        if token:
                            chunks += [
                                (self._run(run, first), part.weight),
                                (np.array([self._control[token]]), part.weight),
                            ]
                            run, context, first, stripping = "", "", False, token in self._strips_right
        chunks.append((self._run(run, first), 0.0))
        ids = np.concatenate([new for new, _ in chunks])
        weights = np.concatenate([np.broadcast_to(np.float64(weight), len(new)) for new, weight in chunks])
        return (Tokens(ids) if image is None else _placed(ids, image)), weights

    def _tokens_in(self, control: str) -> Iterator[tuple[str, str]]:
        """Control text as (text before a control token, the token); the token behind the last text is empty.

        White space goes that a token takes with it (`lstrip`).
        """
        parts = [*self._split(control), ""]
        for text, token in zip(parts[::2], parts[1::2], strict=True):
            yield text.rstrip() if token in self._strips_left else text, token

    def _after(self, context: str, text: str) -> np.ndarray:
        """An answer's tokens behind the control text that opens it, as if both were one text where that can be."""
        if self._needs_blank(context, text):
            text = f" {text}"
        before, both = self.texts.encode(context, False), self.texts.encode(context + text, False)
        if both[: len(before)] != before:
            return np.array(self.texts.encode(text, False), np.int64)
        return np.array(both[len(before) :], np.int64)

    def _marked(self, context: str, part: Piece, tokens: int) -> np.ndarray:
        """Loss weights of an answer's tokens, where characters are marked: a token counts as any that it holds."""
        text = f" {part.text}" if self._needs_blank(context, part.text) else part.text
        moved = len(text) - len(part.text)
        before, both = self.texts.encode(context, False), self.texts.encode(context + text, False)
        alone = both[: len(before)] != before
        places = self.texts.places(text if alone else context + text)[-tokens:]
        start = moved if alone else moved + len(context)
        weights = np.full(tokens, part.weight)
        for number, (first, last) in enumerate(places):
            factors = [weight for begin, end, weight in part.marks if first - start < end and last - start > begin]
            if factors:
                weights[number] *= factors[0]
        return weights

    def _needs_blank(self, context: str, text: str) -> bool:
        """Whether a blank that an answer begins with could else not be told from the tokenizer's own."""
        return not context and not self.chat.gap and text.startswith(" ") and self.texts.adds_blank

    def _decoded(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _with_image(parts: Iterable[Piece], image: ImageLayout | None) -> Iterator[Piece]:
    """The pieces, with the runs of image tokens (their number as text) and the control text between in place."""
    for part in parts:
        if part.kind != "image":
            yield part
            continue
        assert image is not None, "a dialogue over an image, and no image"
        for one in image.parts:
            yield Piece(str(one), "control" if isinstance(one, str) else "image")


def _placed(ids: np.ndarray, image: ImageLayout) -> Tokens:
    """Tokens with what an image says of positions and of what sees what; plain ones where it says nothing."""
    place = ids == IMAGE
    if not place.any() or (image.positions is None and not image.block):
        return Tokens(ids)
    starts = np.flatnonzero(place & ~np.concatenate([[False], place[:-1]]))
    stops = np.flatnonzero(place & ~np.concatenate([place[1:], [False]])) + 1
    positions = until = None
    if image.positions is not None:
        (start,), (stop,) = starts, stops
        positions = np.tile(np.arange(len(ids)), (len(image.positions), 1))
        positions[:, start:stop] = start + image.positions
        positions[:, stop:] += start + image.advance - stop
    if image.block:
        until = np.arange(1, len(ids) + 1)
        for start, stop in zip(starts, stops, strict=True):
            until[start:stop] = stop
    return Tokens(ids, positions, until)


def _of_image(image: ImageLayout | None) -> str:
    return "" if image is None else f" ({image.tokens} of them the image's)"


def before_all(tokenizer: PreTrainedTokenizerBase, chat: Chat) -> list[int]:
    """What the tokenizer puts before plain text: mostly BOS or nothing. A chat template of its own decides."""
    if not chat.takes_start:
        return []
    plain, with_special = tokenizer.encode("x", add_special_tokens=False), tokenizer.encode("x")
    starts = [n for n in range(len(with_special)) if with_special[n : n + len(plain)] == plain]
    usual = with_special[: starts[0]] if starts else []
    bos = tokenizer.bos_token
    follows = isinstance(chat, ChatFormat) and chat.follows_own
    if not getattr(tokenizer, "chat_template", None) or bos is None or not follows:
        return usual
    try:
        messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}]
        own = str(tokenizer.apply_chat_template(messages, tokenize=False))
    except jinja2.TemplateError:
        return usual
    ours = next(chat.pieces((Span("user", "x"),), image=False)).text
    twice = ours.startswith(bos)  # SmolLM calls the format's own <|im_start|> its BOS
    return [int(tokenizer.bos_token_id)] if own.startswith(bos * (1 + twice)) else []


def _added(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Contents of added tokens that say something; white space stays text."""
    return [token.content for token in tokenizer.added_tokens_decoder.values() if token.content.strip()]


def _stop(tokenizer: PreTrainedTokenizerBase, chat: Chat) -> int:
    end = chat.end
    ids = tokenizer.encode(end, add_special_tokens=False)
    number = tokenizer.get_vocab().get(end)
    if number is None or (len(ids) != 1 and end not in _added(tokenizer)):
        raise ValueError(
            f"{chat.setting}: expected {end!r}, which ends an answer, to be one token of this "
            f"tokenizer, got {len(ids)} tokens. Choose a chat format whose end it knows"
        )
    return int(number)
