"""Whether a chat template, taken apart, gives what the template itself gives."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from dress.dialogue.encode import DialogueEncoder
from dress.dialogue.spans import Span
from dress.dialogue.template import TemplateChat

PROBES = (
    ("What is in the top left?", "Is it kind?", "A red circle, I think."),
    ("Describe  the picture.\nNow!", "Feedback: it's 100% right (4/4).", "Two: 1) a cat; 2) a dog…"),
    ("Why?", "Now.", "\nA list:\n- one"),
    ("Where?", "Again.", "\n\n  There."),
)
"""Texts of a dialogue (question, condition, answer) that templates and tokenizers are tried with."""


def check_template(encoder: DialogueEncoder, chat: TemplateChat) -> bool:
    """Compare pieces with the template rendered on whole dialogues, and their tokens with those of the whole text.

    Returns:
        Whether prompt and answer are one token somewhere: the two are then tokenised apart, as generation meets them.

    Raises:
        ValueError: the template treats texts of its own accord or marks others than answers as generated, or the
            tokenizer merges tokens elsewhere.
    """
    apart = False
    for user, condition, answer in PROBES:
        spans = [Span("user", user), Span("condition", condition), Span("assistant", answer, 1.0)]
        spans += [Span("user", condition), Span("assistant", user, 1.0)]
        _compare(chat, spans[:-1], False)
        if chat.placeholder:
            _compare(chat, spans[:-1], True)
        if chat.takes_system:
            _compare(chat, [Span("system", answer.strip()), *spans[:-1]], False)
        for part in (spans[:2], spans[:4], spans):
            ours = encoder.prompt(part, None).ids[len(encoder.before) :].tolist()
            cuts = _merged_starts(encoder, chat, part) if len(part) > 2 else []
            if ours != _cut(encoder, _text(chat, part), cuts):
                raise ValueError(
                    f"{chat.setting}: expected tokens that end where messages end, got a tokenizer that merges them "
                    f"across (probe {user!r}): loss masks would be wrong. Choose another template"
                )
            apart = apart or bool(cuts)
    _check_marks(chat)
    return apart


def _compare(chat: TemplateChat, spans: Sequence[Span], image: bool) -> None:
    """Raises ValueError: the template writes an open dialogue otherwise, but for white space around its texts."""
    messages: list[dict[str, Any]] = []
    for span in spans:
        if span.role == "condition":
            last = messages.pop()
            text = last["content"] if isinstance(last["content"], str) else last["content"][-1]["text"]
            messages.append(chat.message("user", f"{text} {span.text}", image and not messages))
        else:
            messages.append(chat.message(span.role, span.text, image and not messages))
    own, ours = chat.render(messages, open_=True), _text(chat, spans, image, own=True)
    if "".join(own.split()) != "".join(ours.split()):
        raise ValueError(
            f"{chat.setting}: expected a template that leaves texts as they are, {ours!r:.300}, got {own!r:.300}. "
            f"Choose another template"
        )


def _text(chat: TemplateChat, spans: Sequence[Span], image: bool = False, own: bool = False) -> str:
    """Of a dialogue's pieces; as the template's `own`, without the ends of answers that it does not write."""
    pieces = chat.pieces(tuple(spans), image)
    return "".join(
        str(chat.placeholder) if piece.kind == "image" else piece.text
        for piece in pieces
        if not (own and chat.adds_end and piece.kind == "written" and piece.text == chat.end)
    )


def _merged_starts(encoder: DialogueEncoder, chat: TemplateChat, spans: Sequence[Span]) -> list[int]:
    """Where, in the whole text, an answer begins within a token that began before it."""
    text, starts = "", list[int]()
    for piece in chat.pieces(tuple(spans), False):
        starts += [len(text)] if piece.kind in ("answer", "written") else []
        text += piece.text
    offsets = encoder.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return sorted({start for start in starts for begin, end in offsets if begin < start < end})


def _cut(encoder: DialogueEncoder, text: str, cuts: Sequence[int]) -> list[int]:
    """Tokens of a text that is cut in these places before it is tokenised."""
    parts = (text[start:stop] for start, stop in pairwise([0, *cuts, len(text)]))
    return [token for part in parts for token in encoder.tokenizer.encode(part, add_special_tokens=False)]


def _check_marks(chat: TemplateChat) -> None:
    """Compare loss weights with what the template itself marks as generated, where it does.

    What a template writes around an answer may be marked or not, so may tokens that overlap the borders of a text.

    Raises:
        ValueError: it leaves out some of an answer, or marks some of another text.
    """
    if not re.search(r"{%[-+]?\s*generation\b", chat.template):
        return
    for user, condition, answer in PROBES:
        texts = [user, answer, condition, user.upper()]
        messages = [chat.message(role, text) for role, text in zip(("user", "assistant") * 2, texts, strict=True)]
        out: Any = chat.tokenizer.apply_chat_template(
            messages, chat_template=chat.template, tokenize=True, return_dict=True, return_assistant_tokens_mask=True,
            tokenizer_kwargs={"return_offsets_mapping": True}, **chat.arguments,
        )  # fmt: skip
        own = chat.render(messages)
        tokens = list(zip(out["offset_mapping"], out["assistant_masks"], strict=True))
        for number, (start, stop) in enumerate(_places(own, texts)):
            inside = [(range(*place), marked) for place, marked in tokens if start <= place[0] and place[1] <= stop]
            every, generated = ({c for place, mark in inside if mark in of for c in place} for of in ((0, 1), (1,)))
            # a character may be of several tokens, of which transformers marks the first
            wrong = sorted(every - generated if number % 2 else generated)
            if wrong:
                kinds = ("a user's text outside", "an answer inside")
                raise ValueError(
                    f"{chat.setting}: expected {kinds[number % 2]} of {{% generation %}}, got {own[wrong[0]]!r} of "
                    f"{own[start:stop]!r} {'outside' if number % 2 else 'inside'}. Mend the template's marks"
                )


def _places(whole: str, texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Where texts stand in a rendered template, one behind the other; it may have cut off their white space."""
    at = 0
    for text in texts:
        start = whole.index(text.strip(), at)
        at = start + len(text.strip())
        yield start, at
