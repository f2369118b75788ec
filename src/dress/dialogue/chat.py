"""Chat formats: the fixed text around user and assistant messages.

Pieces are cut only where every supported tokenizer splits (special tokens, or a leading space), so
that tokenising piece by piece equals tokenising the whole; `check_cuts` proves it at load.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dress.dialogue.spans import Span


@dataclass(frozen=True)
class ChatFormat:
    """The text around messages; the image stands first in the first user message."""

    name: str
    start: str  # before the first message
    user_open: str
    user_close: str
    assistant_open: str
    assistant_end: str  # supervised: it tells generation to stop
    assistant_after: str  # not supervised
    gap: str  # before a message's text
    special: tuple[str, ...] = ()  # added to a tokenizer made from scratch


FORMATS = {
    "plain": ChatFormat(
        "plain", "", "<|user|>", "", "<|assistant|>", "<|end|>", "", " ", ("<|user|>", "<|assistant|>", "<|end|>")
    ),
    "chatml": ChatFormat(
        "chatml",
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n",
        "<|im_start|>user\n",
        "<|im_end|>\n",
        "<|im_start|>assistant\n",
        "<|im_end|>",
        "\n",
        "",
    ),
    "vicuna": ChatFormat(
        "vicuna",
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
        "helpful, detailed, and polite answers to the user's questions.",
        " USER:",
        "",
        " ASSISTANT:",
        "</s>",
        "",
        " ",
    ),
}


@dataclass(frozen=True)
class Piece:
    """A run of tokens of one loss weight; `image` stands for the image's tokens."""

    text: str
    weight: float = 0.0
    image: bool = False


def pieces(spans: tuple[Span, ...], chat: ChatFormat, image: bool) -> Iterator[Piece]:
    """The pieces of a dialogue in order; a last user message is left open for an answer."""
    if chat.start:
        yield Piece(chat.start)
    for number, span in enumerate(spans):
        text = " ".join(span.text.split())
        match span.role:
            case "user":
                yield Piece(chat.user_open)
                if number == 0 and image:
                    yield Piece("", image=True)
                yield Piece(chat.gap + text)
                if number + 1 == len(spans) or spans[number + 1].role != "condition":
                    yield from _to_assistant(chat)
            case "condition":
                yield Piece(" " + text)
                yield from _to_assistant(chat)
            case "assistant":
                yield Piece(chat.gap + text, span.weight)
                yield Piece(chat.assistant_end, span.weight)
                if chat.assistant_after:
                    yield Piece(chat.assistant_after)


def _to_assistant(chat: ChatFormat) -> Iterator[Piece]:
    if chat.user_close:
        yield Piece(chat.user_close)
    yield Piece(chat.assistant_open)
