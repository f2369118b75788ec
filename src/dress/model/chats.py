"""Which chat format a model's dialogues have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from dress import config
from dress.config.nearest import nearest
from dress.dialogue.chat import FORMATS, Chat, ChatFormat
from dress.dialogue.template import TemplateChat


def language_chat(settings: config.Language, tokenizer: PreTrainedTokenizerBase) -> Chat:
    """The format of a language model's dialogues.

    Args:
        settings: `chat` names it; `auto` is the tokenizer's own template, or `plain` for a tokenizer of the run's own.
        tokenizer: of the language model.

    Raises:
        ValueError: no such format, no template, or one that cannot be used.
    """
    if settings.config is not None:
        return own_format(settings)
    return chat_of(settings.chat, "model.language.chat", tokenizer) or TemplateChat(
        "the tokenizer's own", tokenizer, own_template(tokenizer, "model.language.chat"), ends=end_of(tokenizer)
    )


def own_format(settings: config.Language) -> ChatFormat:
    """The format of a tokenizer that a run trains.

    Raises:
        ValueError: no such format.
    """
    name = "plain" if settings.chat == "auto" else settings.chat
    if name not in FORMATS:
        raise ValueError(
            f"model.language.chat={name}: for a tokenizer of the run's own expected one of {', '.join(FORMATS)}"
        )
    return FORMATS[name]


def hf_chat(settings: config.HFModel, processor: Any, ends: Sequence[str] = ()) -> Chat:
    """The format of the dialogues of a vision-language model of transformers.

    Args:
        settings: `chat` names it; `auto` is the template of its processor.
        processor: of the model.
        ends: names of tokens that end an answer, by its generation config.

    Raises:
        ValueError: no such format, no template, or one that cannot be used.
    """
    tokenizer, name = processor.tokenizer, settings.chat
    ends = [*ends, *end_of(tokenizer)]
    if name in FORMATS:
        return FORMATS[name]
    if name == "auto":
        origin, template = "the processor's own", own_template(_templated(processor), "model.chat")
    else:
        chat_of(name, "model.chat", tokenizer)
        origin, template = name, Path(name).read_text(encoding="utf-8")
    return TemplateChat(origin, tokenizer, template, placeholder=processor.image_token, ends=ends, lists=True)


def _templated(processor: Any) -> Any:
    return processor if getattr(processor, "chat_template", None) else processor.tokenizer


def chat_of(name: str, key: str, tokenizer: PreTrainedTokenizerBase) -> Chat | None:
    """The format that a setting names; None where it leaves it to the model.

    Raises:
        ValueError: no such format or file.
    """
    if name == "auto":
        return None
    if name in FORMATS:
        return FORMATS[name]
    file = Path(name)
    if not file.is_file():
        names = ["auto", *FORMATS]
        raise ValueError(f"{key}={name}: expected {', '.join(names)} or a Jinja file, found none{nearest(name, names)}")
    return TemplateChat(name, tokenizer, file.read_text(encoding="utf-8"), ends=end_of(tokenizer))


def own_template(tokenizer: PreTrainedTokenizerBase, key: str) -> str:
    """The template that came with a tokenizer or processor.

    Raises:
        ValueError: it has none.
    """
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise ValueError(
            f"{key}=auto: this tokenizer has no chat template. Name one: {', '.join(FORMATS)}, or a Jinja file"
        )
    return str(template)


def end_of(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The tokenizer's end of a sequence, if it has one."""
    return [str(tokenizer.eos_token)] if tokenizer.eos_token else []
