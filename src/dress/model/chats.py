"""Which chat format a model's dialogues have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from dress import config
from dress.config.nearest import nearest
from dress.dialogue.chat import FORMATS, Chat, ChatFormat
from dress.dialogue.jinja_condition import unconditioned
from dress.dialogue.template import TemplateChat
from dress.model.export_facts import read_export, read_template


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
    key, name = "model.language.chat", settings.chat
    if name in FORMATS:
        return _fitted(name, key, tokenizer)
    template = _template(name, key, tokenizer)
    return TemplateChat(name, tokenizer, template, ends=_eos(tokenizer), arguments=settings.template_arguments, key=key)


def own_format(settings: config.Language) -> ChatFormat:
    """The format of a tokenizer that a run trains.

    Raises:
        ValueError: no such format.
    """
    name = "plain" if settings.chat == "auto" else settings.chat
    if name not in FORMATS:
        raise ValueError(
            f"model.language.chat={name}: for a tokenizer of the run's own expected one of {', '.join(FORMATS)}."
            f"{nearest(name, [*FORMATS])}"
        )
    return FORMATS[name]


def hf_chat(settings: config.HFModel, processor: Any, ends: Sequence[str] = ()) -> Chat:
    """The format of the dialogues of a vision-language model of transformers.

    Args:
        settings: `chat` names it; `auto` is the template of its processor, or of a folder that DRESS exported the one
            without condition.
        processor: of the model.
        ends: names of tokens that end an answer, by its generation config.

    Raises:
        ValueError: no such format, no template, or one that cannot be used.
    """
    tokenizer, key, name = processor.tokenizer, "model.chat", settings.chat
    if name in FORMATS:  # chosen, whatever came with it
        return replace(_fitted(name, key, tokenizer), follows_own=False)
    ends = [end for end in (*ends, *_eos(tokenizer)) if end in tokenizer.get_vocab()]
    owner = processor if getattr(processor, "chat_template", None) else tokenizer
    template = _template(name, key, owner, Path(settings.name))
    return TemplateChat(
        name, tokenizer, template, processor.image_token, ends, settings.template_arguments,
        lists=True, key=key,
    )  # fmt: skip


def _fitted(name: str, key: str, tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
    """A format by name; one of plain words ends answers with the tokenizer's eos token where it lacks the format's."""
    chat = replace(FORMATS[name], key=key)
    if not chat.of_words or chat.end in tokenizer.get_vocab() or not tokenizer.eos_token:
        return chat
    return replace(chat, assistant_end=str(tokenizer.eos_token))


def _template(name: str, key: str, owner: Any, folder: Path | None = None) -> str:
    """The Jinja text of a file, or for `auto` what came with a tokenizer or processor.

    A condition that an export wrote into it is left out: dialogues bring their own.

    Args:
        name: as `chat` in the configuration has it.
        key: of that setting.
        owner: the tokenizer or processor.
        folder: of the model; where DRESS exported it, it says which file has the template without condition.

    Raises:
        ValueError: no such format or file, or nothing came with it.
    """
    if name == "auto":
        exported = None if folder is None else read_export(folder)
        if folder is not None and exported is not None and exported.template is not None:
            return unconditioned(read_template(folder, exported.template))
        template = getattr(owner, "chat_template", None)
        template = template.get("default") if isinstance(template, dict) else template
        if not template:
            origin = getattr(owner, "tokenizer", owner).name_or_path
            raise ValueError(
                f"{key}=auto: expected a chat template with the tokenizer{f' of {origin}' if origin else ''} "
                f"(chat_template.jinja), got none. Name one: {', '.join(FORMATS)}, or a Jinja file"
            )
        return unconditioned(str(template))
    names = ["auto", *FORMATS]
    try:
        return unconditioned(Path(name).read_text(encoding="utf-8"))
    except OSError:
        raise ValueError(
            f"{key}={name}: expected {', '.join(names)} or a Jinja file, found none.{nearest(name, names)}"
        ) from None
    except UnicodeDecodeError:
        raise ValueError(f"{key}={name}: expected a Jinja file in UTF-8, got other bytes. Save it as UTF-8") from None


def _eos(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The tokenizer's end of a sequence, if it has one."""
    return [str(tokenizer.eos_token)] if tokenizer.eos_token else []
