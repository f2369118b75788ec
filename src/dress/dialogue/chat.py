"""Chat formats: the text around system, user and assistant messages.

A dialogue is control text of the format and texts of the record, as they stand. Only the format's own control
tokens are control tokens; `encode` keeps the two apart. Three formats are fixed texts; a model's own chat template
(`dialogue.template`) is another way to the same pieces.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from dress.dialogue.spans import Span
from dress.record import RecordError

Kind = Literal["control", "text", "answer", "written", "image"]


@dataclass(frozen=True)
class Piece:
    """A run of one kind and loss weight: the format's own (`control`; `written` where a model writes it), a `text` of
    the record, an `answer`, or the place of the `image`'s tokens. `marks` as in `Span`."""

    text: str
    kind: Kind
    weight: float = 0.0
    marks: tuple[tuple[int, int, float], ...] = ()


class Chat(Protocol):
    """How the messages of a dialogue become pieces."""

    @property
    def name(self) -> str:
        """As `chat` in the configuration has it."""
        ...

    @property
    def setting(self) -> str:
        """Key and value in the configuration, for messages."""
        ...

    @property
    def digest(self) -> str:
        """Tells formats of one name apart; empty where the name says all."""
        ...

    @property
    def control(self) -> tuple[str, ...]:
        """Its control texts, in which its control tokens stand."""
        ...

    @property
    def end(self) -> str:
        """The control token that ends an answer."""
        ...

    @property
    def stops(self) -> tuple[str, ...]:
        """All control tokens that end one."""
        ...

    @property
    def opening(self) -> str:
        """The control text right before an answer."""
        ...

    @property
    def gap(self) -> str:
        """What a model writes before an answer's text."""
        ...

    @property
    def tail(self) -> str:
        """White space that a model writes between an answer's text and the token that ends it."""
        ...

    @property
    def takes_system(self) -> bool:
        """Whether there is a place for a system text."""
        ...

    @property
    def takes_start(self) -> bool:
        """Whether what the tokenizer puts before plain text (BOS) may stand before a dialogue."""
        ...

    def pieces(self, spans: tuple[Span, ...], image: bool) -> Iterator[Piece]:
        """The pieces of a dialogue in order; a last user message is left open for an answer.

        Raises:
            RecordError: a system text, and the format has no place for one.
        """
        ...


@dataclass(frozen=True)
class ChatFormat:
    """The text around messages; the image stands first in the first user message."""

    name: str
    system_open: str | None  # None: the format has no place for a system text
    system: str  # the default
    system_close: str
    user_open: str
    user_close: str
    assistant_open: str
    assistant_end: str  # supervised: it tells generation to stop
    assistant_after: str  # not supervised
    gap: str  # before a message's text
    special: tuple[str, ...] = ()  # added to a tokenizer made from scratch
    of_words: bool = True  # what opens messages may be plain words to a tokenizer
    follows_own: bool = True  # a tokenizer's own template, if there is one, must say the same
    key: str = "model.language.chat"  # the setting that names it
    tail = digest = ""

    @property
    def setting(self) -> str:
        """Key and value in the configuration, for messages."""
        return f"{self.key}={self.name}"

    @property
    def control(self) -> tuple[str, ...]:
        """Its control texts, in which its control tokens stand."""
        return (
            self.system_open or "", self.system_close, self.user_open, self.user_close,
            self.assistant_open, self.assistant_end, self.assistant_after,
        )  # fmt: skip

    @property
    def end(self) -> str:
        """The control token that ends an answer."""
        return self.assistant_end

    @property
    def stops(self) -> tuple[str, ...]:
        """All control tokens that end one."""
        return (self.assistant_end,)

    @property
    def opening(self) -> str:
        """The control text right before an answer."""
        return self.assistant_open

    @property
    def takes_system(self) -> bool:
        """Whether there is a place for a system text."""
        return self.system_open is not None

    @property
    def takes_start(self) -> bool:
        """Whether what the tokenizer puts before plain text (BOS) may stand before a dialogue."""
        return True

    def pieces(self, spans: tuple[Span, ...], image: bool) -> Iterator[Piece]:
        """See `Chat.pieces`; the image stands first in the first user message."""
        yield from self._system(spans)
        first = True
        for number, span in enumerate(spans):
            last = number + 1 == len(spans)
            match span.role:
                case "user":
                    yield Piece(self.user_open, "control")
                    if first and image:
                        yield Piece("", "image")
                    first = False
                    yield Piece(self.gap + span.text, "text")
                    if last or spans[number + 1].role != "condition":
                        yield from self._to_assistant()
                case "condition":
                    yield Piece(" " + span.text, "text")
                    yield from self._to_assistant()
                case "assistant":
                    yield answer_piece(self.gap, span)
                    if not (last and span.cut):
                        yield Piece(self.assistant_end, "control", 0.0 if span.cut else span.weight)
                        yield Piece(self.assistant_after, "control")

    def _system(self, spans: tuple[Span, ...]) -> Iterator[Piece]:
        system = spans[0].text if spans and spans[0].role == "system" else None
        if self.system_open is None:
            if system:
                raise RecordError(
                    f"{self.setting}: this format has no place for a system text, got {system!r:.80}. "
                    f"Choose another, or set the dialogue's `system` to null"
                )
            return
        yield Piece(self.system_open, "control")
        yield Piece(self.system if system is None else system, "text")
        yield Piece(self.system_close, "control")

    def _to_assistant(self) -> Iterator[Piece]:
        yield Piece(self.user_close, "control")
        yield Piece(self.assistant_open, "control")


def answer_piece(gap: str, span: Span, tail: str = "") -> Piece:
    """An answer between what a model writes before its text and behind it."""
    marks = tuple((start + len(gap), end + len(gap), weight) for start, end, weight in span.marks)
    return Piece(gap + span.text + tail, "answer", span.weight, marks)


FORMATS = {
    "plain": ChatFormat(
        name="plain",
        system_open="",
        system="",
        system_close="",
        user_open="<|user|>",
        user_close="",
        assistant_open="<|assistant|>",
        assistant_end="<|end|>",
        assistant_after="",
        gap=" ",
        special=("<|user|>", "<|assistant|>", "<|end|>"),
    ),
    "chatml": ChatFormat(
        name="chatml",
        system_open="<|im_start|>system\n",
        system="You are a helpful AI assistant named SmolLM, trained by Hugging Face",
        system_close="<|im_end|>\n",
        user_open="<|im_start|>user\n",
        user_close="<|im_end|>\n",
        assistant_open="<|im_start|>assistant\n",
        assistant_end="<|im_end|>",
        assistant_after="\n",
        gap="",
        of_words=False,
    ),
    "vicuna": ChatFormat(
        name="vicuna",
        system_open="",
        system="A chat between a curious user and an artificial intelligence assistant. The assistant gives "
        "helpful, detailed, and polite answers to the user's questions.",
        system_close="",
        user_open=" USER:",
        user_close="",
        assistant_open=" ASSISTANT:",
        assistant_end="</s>",
        assistant_after="",
        gap=" ",
    ),
}
