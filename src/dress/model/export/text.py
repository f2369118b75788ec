"""The language model of a composed model as a part of a vision-language model, with a token that stands for images.

Shapes: M entries of the vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from tokenizers import AddedToken
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dress.model.composed import ComposedLVLM

IMAGE, VIDEO = "<image>", "<video>"
INTERNAL = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "quantization_config")
"""Fields of a configuration that say where it came from, not what it is."""


@dataclass(frozen=True)
class TextPart:
    """A causal language model, and tokens of its tokenizer that stand for images and the like.

    Attributes:
        config: of transformers.
        weights: under the names of its own class; a tied head is not among them.
        tokenizer: a copy that knows the tokens.
        tokens: `<image>` and what else was asked for, to the token that stands for it.
        suppressed: numbers of tokens for which a row had to be added, which no answer may have.
    """

    config: dict[str, Any]
    weights: dict[str, Tensor] = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    tokens: dict[str, str] = field(default_factory=dict)
    suppressed: tuple[int, ...] = ()

    def number(self, name: str) -> int:
        """Of the token that stands for something."""
        return self.tokenizer.get_vocab()[self.tokens[name]]


def text_part(model: ComposedLVLM, weights: dict[str, Tensor], names: Sequence[str] = (IMAGE,)) -> TextPart:
    """The language model with tokens for images and the like.

    A token takes a row that nobody uses: one behind the tokenizer's entries, or a special token that no dialogue
    holds. Where there is none, a row is added, the mean of the others.

    Args:
        model: whose it is.
        weights: of the language model, with adapters merged.
        names: what needs a token.
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
    part = TextPart(config, weights, deepcopy(model.encoder.tokenizer))
    for name in names:
        part = _with_token(part, name, model)
    return part


def _with_token(part: TextPart, name: str, model: ComposedLVLM) -> TextPart:
    tokenizer, language = part.tokenizer, cast(Any, model.language)
    rows = int(language.get_input_embeddings().weight.shape[0])
    last = max(tokenizer.get_vocab().values())
    spare = None if last + 1 < rows else next(_spare(model, part.tokens), None)
    if name not in tokenizer.get_vocab() and spare is None:
        tokenizer.add_tokens([AddedToken(name, special=True)], special_tokens=True)
    part = replace(part, tokens={**part.tokens, name: spare or name})
    number = part.number(name)
    return part if number < rows else _with_row(part, language, number)


def _spare(model: ComposedLVLM, tokens: Mapping[str, str]) -> Iterator[str]:
    """Special tokens that no dialogue holds."""
    tokenizer, chat = model.encoder.tokenizer, model.encoder.chat
    named = {str(value) for value in tokenizer.special_tokens_map.values() if isinstance(value, str)}
    for number, token in sorted(tokenizer.added_tokens_decoder.items()):
        used = number in model.encoder.stops or number in model.encoder.before or token.content in named
        used = used or token.content in tokens.values() or any(token.content in text for text in chat.control)
        if token.special and not used:
            yield str(token.content)


def _with_row(part: TextPart, language: Any, number: int) -> TextPart:
    """Rows of embedding and head up to this number, the means of the others."""
    names = {name for name, one in language.named_parameters() if one is language.get_input_embeddings().weight}
    names |= {name for name, one in language.named_parameters() if one is language.get_output_embeddings().weight}
    weights, mean_of = dict(part.weights), int(language.get_input_embeddings().weight.shape[0])
    for name in names & weights.keys():
        rows = weights[name]
        mean = rows[:mean_of].float().mean(0, keepdim=True).to(rows.dtype)
        weights[name] = torch.cat([rows, mean.expand(number + 1 - len(rows), -1)])
    config = part.config | {"vocab_size": number + 1}
    return replace(part, config=config, weights=weights, suppressed=(*part.suppressed, number))
