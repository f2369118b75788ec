"""A model's own chat template as pieces of a dialogue.

The template is rendered once, whole, with a mark in place of every text; what stands between the marks is its control
text. Texts then stand as they are: no template trims or escapes them, and none of their words becomes a control token.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from dress.dialogue.chat import Piece, answer_piece
from dress.dialogue.spans import Role, Span
from dress.record import RecordError

MARK = "\U000f5a5a{}\U000f5a5b"
"""Stands for a text while a template is rendered: private characters around a number."""
MARKS = re.compile(MARK.format(r"\d+"))

ARGUMENTS: Mapping[str, Any] = {"enable_thinking": False, "date_string": "26 Jul 2024"}
"""What templates are told: no thinking (Qwen3), and a date that stays the same (Llama 3.1's own default)."""

Structure = tuple[Role, ...]
"""Roles of a dialogue's messages in order; a condition belongs to its user message."""
ONE: Structure = ("user", "assistant")
TWO: Structure = (*ONE, *ONE)


@dataclass(frozen=True)
class _Answer:
    """What stands around the text of one answer: `opening` for the prompt, then what the model writes (control tokens
    in `lead`, white space and words in `gap`; behind the text white space in `tail`, and the token `end`), and `after`
    it what nobody learns. `own_end`: the template writes that token itself."""

    opening: str
    lead: str
    gap: str
    tail: str
    end: str
    after: str
    own_end: bool


@dataclass(frozen=True)
class _Skeleton:
    """Control texts of a rendered template: one before every text, and one behind the last."""

    before: tuple[str, ...]
    last: str


@dataclass(eq=False)
class TemplateChat:
    """A chat template as a chat format.

    Args:
        name: `auto` for the model's own, or a file.
        tokenizer: its special tokens are what the template may write.
        template: Jinja, as transformers renders it.
        placeholder: stands for an image in the rendered text; None for a model of texts alone.
        ends: names of tokens that end an answer where the template writes none; the first is taken.
        arguments: for the template, beside `ARGUMENTS`.
        lists: whether messages are lists of parts, as templates of vision-language models want them.
        key: the setting that names it.

    Raises:
        ValueError: the template drops or repeats texts, cannot be rendered, or does not end answers; all by name.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    template: str
    placeholder: str | None = None
    ends: Sequence[str] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    lists: bool = False
    key: str = "model.language.chat"

    def __post_init__(self) -> None:
        self.arguments = {**ARGUMENTS, **self.arguments}
        added = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.content.strip()]
        self._tokens = sorted(added, key=len, reverse=True)
        self._open()
        last, earlier = self._answer(ONE, 1), self._answer(TWO, 1)
        self.end, self.stops, self.adds_end = last.end, (last.end, earlier.end), not last.own_end
        self.earlier_end, self.adds_earlier_end = earlier.end, not earlier.own_end
        self.opening, self.gap, self.tail = last.opening, last.lead + last.gap, last.tail
        whole = self._skeleton(TWO, self.placeholder is not None)
        self.control = (*whole.before, whole.last, self.opening, *self.stops)
        try:
            self.control += self._skeleton(("system", *TWO), False).before
            self.takes_system = True
        except RecordError:
            self.takes_system = False
        bos = self.tokenizer.bos_token
        self.takes_start = self.lists and not (bos and whole.before[0].startswith(bos))
        """Whether a processor puts before it what it puts before plain text."""

    @property
    def setting(self) -> str:
        """Key and value in the configuration, for messages."""
        return f"{self.key}={self.name}"

    @property
    def digest(self) -> str:
        """Tells templates of one name apart."""
        parts = [self.template, self.placeholder, self.end, dict(self.arguments)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def pieces(self, spans: tuple[Span, ...], image: bool) -> Iterator[Piece]:
        """See `Chat.pieces`; the image stands in the first user message: where the template puts it, and before the
        question in a template of texts alone."""
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
                if image and self.placeholder is None and span.role == "user" and "user" not in roles[:number]:
                    yield Piece("", "image")
                yield Piece(span.text, "text")
                continue
            answer, last = self._answer(roles, number), place + 1 == len(spans)
            yield from self._control(answer.opening)
            if answer.lead:
                yield Piece(answer.lead, "written", span.weight)
            yield answer_piece(answer.gap, span, "" if span.cut else answer.tail)
            if span.cut and not last:
                yield Piece(answer.tail + answer.end, "control")
            elif not span.cut:
                yield Piece(answer.end, "written", span.weight)
            if last and not span.cut:
                yield from self._control(answer.after)
        if roles and roles[-1] != "assistant":
            yield from self._control(skeleton.last)

    def render(self, messages: Sequence[Mapping[str, Any]], open_: bool = False) -> str:
        """The template's text of messages as it stands, for comparison.

        Args:
            messages: see `message`.
            open_: whether an answer follows.

        Raises:
            ValueError: the template refuses them; RecordError where one of them is a system message.
        """
        roles = [str(one["role"]) for one in messages]
        try:
            text = self.tokenizer.apply_chat_template(
                [dict(one) for one in messages],
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=open_,
                **self.arguments,
            )
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(
                f"{self.setting}: expected a Jinja template, got a mistake in its line {error.lineno} ({error.message})"
            ) from None
        except Exception as error:  # a template is a program, and fails as it likes
            kind = "lists of parts, {type: image} and {type: text, text: …}" if self.lists else "texts"
            raise self._refused(roles, f"whose content is {kind}", f"{type(error).__name__}: {error}") from None
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
        text = self.render(messages, open_=bool(roles) and roles[-1] != "assistant")
        for role, mark in zip(roles, marks, strict=True):
            if text.count(mark) != 1:
                raise self._refused(
                    roles, "with each text once", f"it writes a text of the {role} {text.count(mark)} times"
                )
        if MARKS.findall(text) != marks:
            raise self._refused(roles, "in their order", "it changes that")
        parts = MARKS.split(text)
        if self.placeholder:
            self._check_image(text, parts[shown] if image else "", image)
        return _Skeleton(tuple(parts[:-1]), parts[-1])

    def _check_image(self, text: str, before: str, image: bool) -> None:
        """Raises ValueError: the image is not written once, before the text of its message, or without one."""
        assert self.placeholder is not None
        if text.count(self.placeholder) != int(image):
            raise ValueError(
                f"{self.setting}: expected {int(image)} {self.placeholder!r} in a dialogue "
                f"{'with' if image else 'without'} an image, got {text.count(self.placeholder)}. "
                f"Choose a template of this model's family"
            )
        if image and self.placeholder not in before:
            raise ValueError(
                f"{self.setting}: expected the image before the text of its message, got it behind. "
                f"Choose a template that writes images first"
            )

    def _refused(self, roles: Sequence[str], expected: str, got: str) -> ValueError:
        text = f"{self.setting}: expected a template for messages of {', '.join(roles)} {expected}, got: {got:.200}"
        if "system" in roles:
            return RecordError(f"{text}. Choose another template, or set the dialogue's `system` to null")
        return ValueError(f"{text}. Choose another template")

    def _around(self, roles: Structure, number: int) -> _Answer:
        """What stands around the answer that message `number` is."""
        whole = self._skeleton(roles, False)
        last = number + 1 == len(roles)
        before, after = whole.before[number], whole.last if last else whole.before[number + 1]
        opening = self._skeleton(roles[:number], False).last
        if before.startswith(opening):
            written = before[len(opening) :]
        else:  # a template that writes answers otherwise once they are over (Qwen3): the last one follows its prompt
            opening, written = opening if last else before, ""
        split = max((written.rfind(token) + len(token) for token in self._tokens if token in written), default=0)
        lead, gap = written[:split], written[split:]
        stripped = after.lstrip()
        end = next((token for token in self._tokens if stripped.startswith(token)), None)
        if end is not None:
            tail = after[: len(after) - len(stripped)]
            return _Answer(opening, lead, gap, tail, end, stripped[len(end) :], True)
        if not self.ends:
            raise ValueError(
                f"{self.setting}: expected a token that ends answers, in the template or as eos_token_id in "
                f"generation_config.json, got none. Write one behind the answers"
            )
        return _Answer(opening, lead, gap, "", self.ends[0], after, False)
