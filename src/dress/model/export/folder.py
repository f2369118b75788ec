"""Models as folders: weights, configuration, processor and generation settings, as transformers writes them."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import save_torch_state_dict
from tokenizers import processors
from torch import Tensor
from transformers import GenerationConfig

from dress.model.export.composed import HFParts
from dress.model.hf import HFLVLM
from dress.model.merging import merged_state

DType = Literal["float32", "bfloat16"]
LARGEST_FILE = "5GB"
"""Of weights; more go into several files and an index."""


def write_parts(parts: HFParts, folder: Path, dtype: DType) -> None:
    """Write config.json, weights and generation_config.json of a model that was put into transformers' form.

    Args:
        parts: the model.
        folder: that exists.
        dtype: of the weights.
    """
    weights = {name: _as(value, dtype) for name, value in parts.weights.items()}
    save_torch_state_dict(weights, folder, max_shard_size=LARGEST_FILE, metadata={"format": "pt"})
    parts.config.dtype = getattr(torch, dtype)
    parts.config.save_pretrained(folder)
    parts.generation.save_pretrained(folder)


def write_merged(model: HFLVLM, folder: Path, dtype: DType) -> None:
    """Write a checkpoint of transformers with its adapters merged, as its own class writes it.

    Args:
        model: trained.
        folder: that exists.
        dtype: of the weights.
    """
    network: Any = model.network
    state = {name: _as(value.cpu(), dtype) for name, value in merged_state(model).items()}
    described = network.config
    before = described.dtype
    described.dtype = getattr(torch, dtype)
    try:
        network.save_pretrained(folder, state_dict=state, max_shard_size=LARGEST_FILE)
    finally:
        described.dtype = before


def own_generation(model: HFLVLM, max_new_tokens: int) -> GenerationConfig:
    """The checkpoint's own settings of generation, with what ends answers here."""
    generation: GenerationConfig = deepcopy(model.network.generation_config)
    tokenizer = model.encoder.tokenizer
    generation.eos_token_id = sorted(model.encoder.stops)
    generation.pad_token_id = model.encoder.stop_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    generation.max_new_tokens = max_new_tokens
    return generation


def write_processor(processor: Any, template: str, starts: bool, folder: Path) -> None:
    """Write a processor with this chat template, also as servers of earlier versions look for it.

    Args:
        processor: of the model; it stays as it is.
        template: the chat template.
        starts: whether anything stands before every dialogue (BOS). Where nothing does, the tokenizer must not add
            anything to what the template says.
        folder: that exists.
    """
    copy = deepcopy(processor)
    tokenizer = copy.tokenizer
    if not starts and tokenizer.encode("x") != tokenizer.encode("x", add_special_tokens=False):
        tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
        for name in ("add_bos_token", "add_eos_token"):
            if getattr(tokenizer, name, None):
                setattr(tokenizer, name, False)
    copy.chat_template = template
    tokenizer.chat_template = template
    copy.save_pretrained(folder)
    copy.image_processor.save_pretrained(folder)  # preprocessor_config.json


def _as(value: Tensor, dtype: DType) -> Tensor:
    value = (value.to(getattr(torch, dtype)) if value.is_floating_point() else value).contiguous()
    alone = value.untyped_storage().nbytes() == value.numel() * value.element_size()
    return value if alone else value.clone()  # of one of three matrices that stood in one
