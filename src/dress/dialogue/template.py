"""A model's own chat template as pieces of a dialogue.

The template is rendered once, whole, with a mark in place of every text; what stands between the marks is its control
text. Texts then stand as they are: no template trims or escapes them, and none of their words becomes a control token.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from dress.dialogue.chat import Piece
from dress.dialogue.encode import DialogueEncoder
from dress.dialogue.spans import Role, Span
from dress.record import RecordError

MARK = "\U000f5a5a{}\U000f5a5b"
"""Stands for a text while a template is rendered: private characters around a number."""

ARGUMENTS: Mapping[str, Any] = {"enable_thinking": False, "date_string": "26 Jul 2024"}
"""What templates are told: no thinking (Qwen3), and a date that stays the same (Llama 3.1's own default)."""

Structure = tuple[Role, ...]
"""Roles of a dialogue's messages in order; a condition belongs to its user message."""


@dataclass(frozen=True)
class _Answer:
    """What a template writes around the text of one answer: before it for the prompt, what the model writes then, the
    token that ends it, and what follows."""

    opening: str
    gap: str
    end: str
    after: str


@dataclass(frozen=True)
class _Skeleton:
    """Control texts of a rendered template: one before every text, and one behind the last."""

    before: tuple[str, ...]
    last: str


@dataclass(eq=False)
class TemplateChat:
    """A chat template as a chat format.

    Args:
        name: for messages: where the template comes from.
        tokenizer: its special tokens are what the template may write.
        template: Jinja, as transformers renders it.
        placeholder: stands for an image in the rendered text; None for a model of texts alone.
        ends: names of tokens that end an answer where the template writes none; the first is taken.
        arguments: for the template.
        lists: whether messages are lists of parts, as templates of vision-language models want them.

    Raises:
        ValueError: the template drops or repeats texts, cannot be rendered, or does not end answers; all by name.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    template: str
    placeholder: str | None = None
    ends: Sequence[str] = ()
    arguments: Mapping[str, Any] = field(default_factory=lambda: ARGUMENTS)
    lists: bool = False

    def __post_init__(self) -> None:
        self._open()
        first = self._answer(("user", "assistant"), 1)
        self.end, self.gap, self.opening = first.end.strip(), first.gap, first.opening
        self.adds_end = bool(self.ends) and not self._skeleton(("user", "assistant"), False).last.lstrip().startswith(
            self.end
        )
        """Whether the template writes no token that ends an answer, and one of `ends` does."""
        try:
            self._skeleton(("system", "user"), False)
            self.takes_system = True
        except RecordError:
            self.takes_system = False
        whole = self._skeleton(("user", "assistant", "user", "assistant"), self.placeholder is not None)
        self.control = (*whole.before, whole.last, self.opening, self.end)
        bos = self.tokenizer.bos_token
        self.takes_start = self.lists and not (bos and whole.before[0].startswith(bos))
        """Whether a processor puts before it what it puts before plain text."""

    def pieces(self, spans: tuple[Span, ...], image: bool) -> Iterator[Piece]:
        """See `Chat.pieces`; the image stands in the first user message, where the template puts it."""
        roles = tuple(span.role for span in spans if span.role != "condition")
        skeleton = self._skeleton(roles, image)
        number = -1
        for place, span in enumerate(spans):
            if span.role == "condition":
                yield Piece(" " + span.text, "text")
                continue
            number += 1
            if span.role != "assistant":
                before = skeleton.before[number]
                if number and roles[number - 1] == "assistant":
                    before = self._answer(roles, number - 1).after
                yield from self._control(before)
                yield Piece(span.text, "text")
                continue
            answer = self._answer(roles, number)
            yield from self._control(answer.opening)
            yield Piece(answer.gap + span.text, "answer", span.weight)
            last = place + 1 == len(spans)
            if not (last and span.cut):
                yield Piece(answer.end, "control", 0.0 if span.cut else span.weight)
                if last:
                    yield from self._control(answer.after)
        if roles and roles[-1] != "assistant":
            yield from self._control(skeleton.last)

    def render(self, messages: Sequence[Mapping[str, Any]], open_: bool = False) -> str:
        """The template's text of messages as it stands, for comparison.

        Raises:
            jinja2.TemplateError: the template refuses them.
        """
        text = self.tokenizer.apply_chat_template(
            [dict(one) for one in messages],
            chat_template=self.template,
            tokenize=False,
            add_generation_prompt=open_,
            **self.arguments,
        )
        return str(text)

    def message(self, role: str, text: str, image: bool = False) -> dict[str, Any]:
        """A message as this template wants it."""
        if not self.lists:
            return {"role": role, "content": text}
        shown = [{"type": "image"}] if image else []
        return {"role": role, "content": [*shown, {"type": "text", "text": text}]}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_skeleton", "_answer")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def _open(self) -> None:
        self._skeleton: Callable[[Structure, bool], _Skeleton] = lru_cache(maxsize=1024)(self._rendered)
        self._answer: Callable[[Structure, int], _Answer] = lru_cache(maxsize=1024)(self._around)

    def _control(self, text: str) -> Iterator[Piece]:
        """Control text, and the image's place in it."""
        parts = text.split(self.placeholder) if self.placeholder else [text]
        for number, part in enumerate(parts):
            if number:
                yield Piece("", "image")
            if part:
                yield Piece(part, "control")

    def _rendered(self, roles: Structure, image: bool) -> _Skeleton:
        """The skeleton of a dialogue; open for an answer where the last message is not one."""
        marks = [MARK.format(number) for number in range(len(roles))]
        shown = roles.index("user") if image and "user" in roles else -1
        messages = [
            self.message(role, mark, number == shown)
            for number, (role, mark) in enumerate(zip(roles, marks, strict=True))
        ]
        try:
            text = self.render(messages, open_=bool(roles) and roles[-1] != "assistant")
        except jinja2.TemplateError as error:
            raise self._refused(roles, str(error)) from None
        parts = re.split("|".join(map(re.escape, marks)), text)
        order = re.findall("|".join(map(re.escape, marks)), text)
        if order != marks:
            raise self._refused(roles, "it drops, repeats or changes their texts")
        if self.placeholder and text.count(self.placeholder) != int(image):
            raise ValueError(
                f"model.chat={self.name}: expected {int(image)} {self.placeholder!r} in a dialogue "
                f"{'with' if image else 'without'} an image, got {text.count(self.placeholder)}"
            )
        if self.placeholder and image and self.placeholder not in parts[shown]:
            raise ValueError(
                f"model.chat={self.name}: expected the image before the text of its message, got it behind"
            )
        return _Skeleton(tuple(parts[:-1]), parts[-1])

    def _refused(self, roles: Structure, why: str) -> ValueError:
        text = f"model.chat={self.name}: this template takes no dialogue of {', '.join(roles)} ({why:.200})"
        if "system" in roles:
            return RecordError(f"{text}. Choose another template, or set the dialogue's `system` to null")
        return ValueError(text)

    def _around(self, roles: Structure, number: int) -> _Answer:
        """What stands around the answer that message `number` is."""
        whole = self._skeleton(roles, False)
        before = whole.before[number]
        after = whole.before[number + 1] if number + 1 < len(roles) else whole.last
        opening = self._skeleton(roles[:number], False).last
        if before.startswith(opening):
            gap = before[len(opening) :]
        else:  # a template that writes answers of earlier turns in another way (Qwen3)
            opening, gap = before, ""
        end, after = self._split_end(after)
        return _Answer(opening, gap, end, after)

    def _split_end(self, after: str) -> tuple[str, str]:
        """The control text behind an answer as the token that ends it, and the rest."""
        stripped = after.lstrip()
        for token in sorted(_tokens(self.tokenizer), key=len, reverse=True):
            if stripped.startswith(token):
                size = len(after) - len(stripped) + len(token)
                return after[:size], after[size:]
        if not self.ends:
            raise ValueError(
                f"model.chat={self.name}: expected a token that ends answers, in the template or as eos_token_id in "
                f"generation_config.json, got none"
            )
        return self.ends[0], after


def _tokens(tokenizer: PreTrainedTokenizerBase) -> Collection[str]:
    """Added tokens that say something."""
    return [token.content for token in tokenizer.added_tokens_decoder.values() if token.content.strip()]


PROBES = (
    ("What is in the top left?", "Is it kind?", "A red circle, I think."),
    ("Describe  the picture.\nNow!", "Feedback: it's 100% right (4/4).", "Two: 1) a cat; 2) a dog…"),
    ("Why?", "Now.", "\nA list:\n- one"),
)
"""Texts of a dialogue (question, condition, answer) that tokenizers are tried with."""


def check_template(encoder: DialogueEncoder, chat: TemplateChat) -> bool:
    """Compare pieces with the template rendered on whole dialogues, and their tokens with those of the whole text.

    Returns:
        Whether prompt and answer are one token somewhere: the two are then tokenised apart, as generation meets them.

    Raises:
        ValueError: the template treats texts of its own accord, or the tokenizer merges tokens elsewhere.
    """
    apart = False
    for user, condition, answer in PROBES:
        spans = [Span("user", user), Span("condition", condition), Span("assistant", answer, 1.0)]
        spans += [Span("user", condition), Span("assistant", user, 1.0)]
        prompt = _text(chat, spans[:-1])
        messages = [
            chat.message("user", f"{user} {condition}"), chat.message("assistant", answer),
            chat.message("user", condition),
        ]  # fmt: skip
        own, ours = chat.render(messages, open_=True), prompt.replace(chat.end, "") if chat.adds_end else prompt
        if "".join(own.split()) != "".join(ours.split()):  # white space around texts may be trimmed: ours stays
            raise ValueError(f"model.chat={chat.name}: expected the template to write {ours!r:.300}, got {own!r:.300}")
        for part in (spans[:2], spans[:4], spans):
            whole = encoder.tokenizer.encode(_text(chat, part), add_special_tokens=False)
            if encoder.prompt(part, None).ids[len(encoder.before) :].tolist() == whole:
                continue
            if len(part) == 2 or not _merges_answers(encoder, chat, part):
                raise ValueError(
                    f"model.chat={chat.name}: this tokenizer merges tokens across message borders (probe {user!r}): "
                    f"loss masks would be wrong. Choose another template"
                )
            apart = True
    return apart


def _text(chat: TemplateChat, spans: Sequence[Span]) -> str:
    return "".join(piece.text for piece in chat.pieces(tuple(spans), False))


def _merges_answers(encoder: DialogueEncoder, chat: TemplateChat, spans: Sequence[Span]) -> bool:
    """Whether a token of the whole text begins before an answer and ends in it."""
    text, starts = "", list[int]()
    for piece in chat.pieces(tuple(spans), False):
        starts += [len(text)] if piece.kind == "answer" else []
        text += piece.text
    offsets = encoder.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return any(begin < start < end for start in starts for begin, end in offsets)
