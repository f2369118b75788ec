"""Whether a chat template can carry a condition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from dress.dialogue.chat import Chat
from dress.dialogue.jinja_condition import conditioned
from dress.dialogue.template import MARK, TemplateChat


def check_condition(
    chat: Chat, template: str, condition: str, tokenizer: PreTrainedTokenizerBase, image: bool = True
) -> None:
    """Prove that a template, once it holds the condition, writes it once, behind the last user text, and nothing else.

    Args:
        chat: names the setting, and says whether messages may be strings and whether there may be a system text.
        template: without the condition, for whoever passes it nothing but messages.
        condition: the text.
        tokenizer: its special tokens are what the template may write.
        image: whether to try dialogues with an image too.

    Raises:
        ValueError: it cannot carry the condition.
    """
    if not condition:
        return
    lists = isinstance(chat, TemplateChat) and chat.lists
    forms = (True,) if lists else (False, True)
    shown = (False, True) if image else (False,)
    for roles in _structures(chat.takes_system):
        for parts, with_image in ((parts, one) for parts in forms for one in shown if parts or not one):
            messages = _messages(roles, parts, with_image)
            plain, asked = (
                _render(chat, one, messages, tokenizer) for one in (template, conditioned(template, condition))
            )
            last = MARK.format(max(number for number, role in enumerate(roles) if role == "user"))
            if asked.replace(f"{last} {condition}", last, 1) != plain or asked == plain:
                raise ValueError(
                    f"{chat.setting}: a tokenizer whose template cannot carry a condition: expected {condition!r:.60} "
                    f"once, behind the last user text of {', '.join(roles)}, got {_after(asked, last)!r:.80}. "
                    f"Choose another template, or condition=none"
                )


def _structures(system: bool) -> list[tuple[str, ...]]:
    one, three = ("user",), ("user", "assistant") * 2 + ("user",)
    return [one, three, *([("system", *three)] if system else [])]


def _messages(roles: Sequence[str], parts: bool, image: bool) -> list[dict[str, Any]]:
    """Messages with a mark in place of every text; the image in the first user's."""
    messages: list[dict[str, Any]] = []
    for number, role in enumerate(roles):
        text = MARK.format(number)
        first = image and role == "user" and "user" not in roles[:number]
        shown = [{"type": "image"}] if first else []
        messages.append({"role": role, "content": [*shown, {"type": "text", "text": text}] if parts else text})
    return messages


def _render(chat: Chat, template: str, messages: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase) -> str:
    try:
        return str(
            tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=True)
        )
    except Exception as error:  # a template is a program, and fails as it likes
        raise ValueError(
            f"{chat.setting}: a tokenizer whose template cannot carry a condition: it does not render "
            f"({type(error).__name__}: {error!s:.200}). Choose another template, or condition=none"
        ) from None


def _after(text: str, mark: str) -> str:
    """What a text says from a mark on; the whole where there is none."""
    return text[text.find(mark) + len(mark) :] if mark in text else text
