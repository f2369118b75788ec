"""The model before any stage has trained it."""

from __future__ import annotations

from collections.abc import Collection

import torch
from transformers import PreTrainedTokenizerBase

from dress import config
from dress.dialogue.chat import FORMATS
from dress.dialogue.tokenizer import check_cuts
from dress.model.language import check_language
from dress.model.lvlm import LVLM
from dress.model.vision import check_vision


def check_model(settings: config.Model) -> None:
    """Refuse a language model or a vision encoder that is not there, before anything is made.

    Raises:
        ValueError: names it.
    """
    check_language(settings.language)
    check_vision(settings.vision)


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
        rounded: parts (`vision`, `language`) whose weights are rounded to bf16.

    Raises:
        ValueError: weights that cannot be loaded, a tokenizer that the chat format does not fit, a model that token
            trees do not represent, or one with fewer positions than `max_tokens`.
    """
    check_cuts(tokenizer, FORMATS[settings.language.chat])
    torch.manual_seed(seed)
    model = LVLM(settings, tokenizer, max_tokens)
    positions = getattr(model.language.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and max_tokens > positions:
        raise ValueError(
            f"data.max_tokens={max_tokens}: expected at most {positions}, the positions that model.language has"
        )
    if rounded:
        model.round(set(rounded))
    return model
