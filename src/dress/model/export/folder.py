"""Models as folders: weights, configuration, processor and generation settings, as transformers writes them."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import processors
from torch import Tensor
from transformers import GenerationConfig

from dress.base.files import read_json, write_aside, write_json
from dress.model.export.composed import HFParts
from dress.model.hf import HFLVLM
from dress.model.merging import merged_state

PENALTIES = (
    "repetition_penalty", "no_repeat_ngram_size", "encoder_repetition_penalty", "bad_words_ids", "min_length",
    "min_new_tokens", "forced_bos_token_id", "forced_eos_token_id", "begin_suppress_tokens", "sequence_bias",
)  # fmt: skip
"""Settings of generation that change what a model finds likeliest."""
LARGEST_FILE = "5GB"
"""Of weights; more go into several files and an index."""


def write_parts(parts: HFParts, folder: Path) -> None:
    """Write config.json, weights and generation_config.json of a model that was put into transformers' form.

    Args:
        parts: the model.
        folder: that exists.
    """
    weights = {name: _alone(value) for name, value in parts.weights.items()}
    save_torch_state_dict(weights, folder, max_shard_size=LARGEST_FILE, metadata={"format": "pt"})
    parts.config.dtype = torch.float32
    parts.config.save_pretrained(folder)
    parts.generation.save_pretrained(folder)


def write_merged(model: HFLVLM, folder: Path) -> None:
    """Write a checkpoint of transformers with its adapters merged, as its own class writes it.

    Args:
        model: trained.
        folder: that exists.
    """
    network: Any = model.network
    state = {name: _alone(value.cpu()) for name, value in merged_state(model).items()}
    described = network.config
    before = described.dtype
    described.dtype = torch.float32
    try:
        network.save_pretrained(folder, state_dict=state, max_shard_size=LARGEST_FILE)
    finally:
        described.dtype = before


def own_generation(model: HFLVLM, max_new_tokens: int) -> GenerationConfig:
    """The checkpoint's own settings of generation, with what ends answers here and without what changes scores.

    Answers of a run are drawn from the model's own probabilities: penalties of the checkpoint had no part in them.
    """
    generation: GenerationConfig = deepcopy(model.network.generation_config)
    for name in PENALTIES:
        setattr(generation, name, None)
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


def round_weights(folder: Path) -> None:
    """Round the weights of a written folder to bfloat16, and say so in config.json and in the index of its files."""
    size = 0
    for file in sorted(folder.glob("model*.safetensors")):
        tensors = {
            name: value.to(torch.bfloat16) if value.is_floating_point() else value
            for name, value in load_file(file).items()
        }
        size += sum(value.numel() * value.element_size() for value in tensors.values())
        with write_aside(file, SafetensorError) as aside:
            save_file(tensors, aside, metadata={"format": "pt"})
    described = read_json(folder / "config.json", dict)
    parts = (described, *(one for one in described.values() if isinstance(one, dict)))
    for one in parts:
        if one is described or "dtype" in one:
            one["dtype"] = "bfloat16"
    write_json(folder / "config.json", described)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        listed = read_json(index, dict)
        write_json(index, listed | {"metadata": {**listed.get("metadata", {}), "total_size": size}})


def _alone(value: Tensor) -> Tensor:
    """The tensor in a storage of its own: one of three matrices that stood in one has none."""
    value = value.contiguous()
    alone = value.untyped_storage().nbytes() == value.numel() * value.element_size()
    return value if alone else value.clone()
