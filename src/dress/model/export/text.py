"""The language model of a composed model as a part of a vision-language model, with a token that stands for images.

Shapes: M entries of the vocabulary, D width.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dress.model.composed import ComposedLVLM

IMAGE = "<image>"
INTERNAL = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "quantization_config")
"""Fields of a configuration that say where it came from, not what it is."""


@dataclass(frozen=True)
class TextPart:
    """A causal language model, and the token of its tokenizer that stands for images.

    Attributes:
        config: of transformers.
        weights: under the names of its own class; a tied head is not among them.
        tokenizer: a copy that knows the token.
        image: the token, and `image_id` its number.
        suppressed: the token's number where a row had to be added for it, which no answer may have.
    """

    config: dict[str, Any]
    weights: dict[str, Tensor] = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    image: str
    image_id: int
    suppressed: int | None = None


def text_part(model: ComposedLVLM, weights: dict[str, Tensor]) -> TextPart:
    """The language model with a token for images.

    The token takes a row that nobody uses: one behind the tokenizer's entries, or a special token that no dialogue
    holds. Where there is none, a row is added, the mean of the others.

    Args:
        model: whose it is.
        weights: of the language model, with adapters merged.
    """
    language: Any = model.language
    described = language.config
    config = {name: value for name, value in described.to_dict().items() if name not in INTERNAL and value is not None}
    config |= {"architectures": [type(language).__name__], "model_type": described.model_type}
    theta = (getattr(described, "rope_parameters", None) or {}).get("rope_theta")
    if theta is not None:
        config["rope_theta"] = theta  # where versions before 5 look
    if described.tie_word_embeddings:
        weights = {name: one for name, one in weights.items() if name != "lm_head.weight"}
    tokenizer = deepcopy(model.encoder.tokenizer)
    part = TextPart(config, weights, tokenizer, IMAGE, -1)
    rows = int(language.get_input_embeddings().weight.shape[0])
    known = set(tokenizer.get_vocab().values())
    if IMAGE in tokenizer.get_vocab():
        return replace(part, image_id=tokenizer.convert_tokens_to_ids(IMAGE))
    if max(known) + 1 < rows or (spare := _spare(model)) is None:
        tokenizer.add_tokens([AddedToken(IMAGE, special=True)], special_tokens=True)
        number = int(tokenizer.convert_tokens_to_ids(IMAGE))
        part = replace(part, image_id=number)
        return part if number < rows else _with_row(part, language, number)
    return replace(part, image=spare, image_id=int(tokenizer.convert_tokens_to_ids(spare)))


def _spare(model: ComposedLVLM) -> str | None:
    """A special token that no dialogue holds."""
    tokenizer, chat = model.encoder.tokenizer, model.encoder.chat
    named = {str(value) for value in tokenizer.special_tokens_map.values() if isinstance(value, str)}
    for number, token in sorted(tokenizer.added_tokens_decoder.items()):
        used = number in model.encoder.stops or number in model.encoder.before or token.content in named
        if token.special and not used and not any(token.content in text for text in chat.control):
            return str(token.content)
    return None


def _with_row(part: TextPart, language: Any, number: int) -> TextPart:
    """Rows of embedding and head up to this number, the means of the others."""
    names = {name for name, one in language.named_parameters() if one is language.get_input_embeddings().weight}
    names |= {name for name, one in language.named_parameters() if one is language.get_output_embeddings().weight}
    weights = dict(part.weights)
    for name in names & weights.keys():
        rows = weights[name]
        mean = rows.float().mean(0, keepdim=True).to(rows.dtype)
        weights[name] = torch.cat([rows, mean.expand(number + 1 - len(rows), -1)])
    config = part.config | {"vocab_size": number + 1}
    return replace(part, config=config, weights=weights, suppressed=number)
