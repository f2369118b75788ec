"""The memory of a model: does a step fit without activation checkpointing, and how many rows' keys and values fit."""

from __future__ import annotations

import torch

from dress.kernels.memory import SHARE, free_bytes
from dress.kernels.products import SAVED_KEYS
from dress.model.lvlm import LVLM


def activation_bytes(model: LVLM, tokens: int, width: int) -> int:
    """Estimate of what a forward pass over `tokens` keeps for its backward pass, in bytes.

    Per token and layer: about 12 tensors of the hidden width (inputs of norms and projections, both
    residuals, queries, keys, values, attention's output) and 4 of the MLP's (ours, for gated MLPs; 2 where they
    are fused, in 16 bits); where attention runs as matrix products (bf16 on CPU), its probabilities too.

    Args:
        model: whose language model is trained through.
        tokens: of the largest forest.
        width: bytes per number.
    """
    text = model.text_config
    hidden, layers = text.hidden_size, text.num_hidden_layers
    inner = getattr(text, "intermediate_size", None) or 4 * hidden
    inner = max(inner) if isinstance(inner, list | tuple) else inner
    products = model.fused and width == 2 and model.device.type == "cpu"
    keys = min(tokens, SAVED_KEYS) * text.num_attention_heads if products else 0
    wide = 2 if model.fused and width == 2 else 4
    return tokens * layers * (12 * hidden + wide * inner + keys) * width


def state_bytes(model: LVLM) -> int:
    """Gradients and AdamW's two moments, in bytes: fp32, of what is trained."""
    return sum(12 * p.numel() for p in model.parameters() if p.requires_grad)


def needs_checkpointing(model: LVLM, tokens: int, device: torch.device, half: bool) -> bool:
    """Whether a stage should recompute activations: without it, its largest forest would not fit."""
    need = activation_bytes(model, tokens, 2 if half else 4) + state_bytes(model)
    return need > SHARE * free_bytes(device)


def cache_bytes(model: LVLM, tokens: int) -> int:
    """Keys and values of `tokens` tokens, in bytes (model.cache keeps fp32 on CPU)."""
    text = model.text_config
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    size = 4 if model.device.type == "cpu" else model.projector_weight.element_size()
    return 2 * tokens * text.num_hidden_layers * heads * width * size


def rows_that_fit(model: LVLM, tokens: int) -> int:
    """How many rows of `tokens` tokens have room for their keys and values."""
    device = model.device
    free = free_bytes(device)
    if device.type == "cuda":  # what PyTorch holds and does not use
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(SHARE * free) // cache_bytes(model, tokens)
