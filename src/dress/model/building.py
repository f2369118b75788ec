"""The model before any stage has trained it."""

from __future__ import annotations

from collections.abc import Collection

import torch
from transformers import PreTrainedTokenizerBase

from dress import config
from dress.dialogue.chat import ChatFormat
from dress.dialogue.template import TemplateChat
from dress.dialogue.template_check import check_template
from dress.dialogue.tokenizer import check_cuts, check_texts
from dress.model.composed import ComposedLVLM
from dress.model.hf import HFLVLM
from dress.model.hf_folder import check_hf, load_processor
from dress.model.language import check_language, load_own_tokenizer
from dress.model.lvlm import LVLM
from dress.model.projector import check_projector
from dress.model.quantization import check_quantization
from dress.model.vision import check_vision


def check_model(settings: config.Model) -> None:
    """Refuse a language model or a vision encoder that is not there, before anything is made.

    Raises:
        ValueError: names it.
    """
    check_quantization(settings.quantize)
    match settings:
        case config.ComposedModel():
            check_language(settings.language)
            check_vision(settings.vision)
            check_projector(settings.projector_weights)
        case config.HFModel():
            check_hf(settings)


def make_model(settings: config.Model, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> LVLM:
    """A model of the kind that the settings name, with its weights from files, or drawn.

    Args:
        settings: its parts.
        tokenizer: of its language model.
        max_tokens: of the longest dialogue.

    Raises:
        ValueError: it cannot be loaded, or token trees do not represent it; all by name.
    """
    match settings:
        case config.ComposedModel():
            return ComposedLVLM(settings, tokenizer, max_tokens)
        case config.HFModel():
            return HFLVLM(settings, max_tokens)


def own_tokenizer(settings: config.Model) -> PreTrainedTokenizerBase | None:
    """The tokenizer that comes with a model; None for a language model from a config.

    Raises:
        ValueError: it cannot be loaded.
    """
    match settings:
        case config.ComposedModel():
            return load_own_tokenizer(settings.language)
        case config.HFModel():
            tokenizer: PreTrainedTokenizerBase = load_processor(settings).tokenizer
            return tokenizer


def build_model(
    settings: config.Model,
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    seed: int,
    rounded: Collection[str] = (),
) -> LVLM:
    """Load or draw a model.

    Args:
        settings: its parts.
        tokenizer: of its language model.
        max_tokens: of the longest dialogue.
        seed: of all weights that are drawn.
        rounded: parts (`vision`, `language`) whose weights are rounded to bf16, and held and multiplied in it.

    Raises:
        ValueError: weights that cannot be loaded, a tokenizer that the chat format does not fit, a model that token
            trees do not represent, or one with fewer positions than `max_tokens`.
    """
    torch.manual_seed(seed)
    model = make_model(settings, tokenizer, max_tokens)
    match model.encoder.chat:
        case ChatFormat() as chat:
            check_cuts(tokenizer, chat)
        case TemplateChat() as chat:
            model.encoder.apart = check_template(model.encoder, chat)
            check_texts(model.encoder)
    positions = getattr(model.text_config, "max_position_embeddings", None)
    if positions is not None and max_tokens > positions:
        raise ValueError(
            f"data.max_tokens={max_tokens}: expected at most {positions}, the positions that the language model has. "
            f"Set data.max_tokens={positions}"
        )
    if rounded:
        model.round(set(rounded))
        model.hold_rounded()
    return model
