"""Weights as their own classes name them, with what adapters add to them."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from dress.model.hf import HFLVLM
from dress.model.lvlm import LVLM
from dress.model.quantization import QuantizedLinear

BASE = ".base_layer"
"""Where peft puts the layer that an adapter stands beside."""


def merged_state(model: LVLM) -> dict[str, Tensor]:
    """The weights of a model without adapters that computes the same.

    An adapter's layer is copied, and merged in the precision of its weights; one at a time, so that memory holds the
    model once and what is changed twice.

    Args:
        model: with or without LoRA or DoRA; it stays as it is.

    Returns:
        Of a checkpoint of transformers, its class's own names. Of a composed model `language.`, `vision.tower.` and
        `projector.` before the names of transformers, OpenCLIP and the projector. On the model's device, without
        gradient; those that no adapter changes are the model's own tensors.

    Raises:
        ValueError: a merged weight is not finite.
    """
    if any(isinstance(layer, QuantizedLinear) for layer in model.modules()):
        raise TypeError("expected a model as `read_model(exact=True)` gives it, got one with packed matrices")
    state = {name: value.detach() for name, value in model.state_dict().items()}
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            state[f"{name}{BASE}.weight"] = _merged(layer, name)
    prefix = "network." if isinstance(model, HFLVLM) else ""
    return {name.replace(BASE, "").removeprefix(prefix): value for name, value in state.items() if "lora_" not in name}


def _merged(layer: Any, name: str) -> Tensor:
    """What an adapter's layer multiplies by, in all."""
    copy = deepcopy(layer)
    with torch.no_grad():
        try:
            copy.merge(safe_merge=True)
        except ValueError as error:
            raise ValueError(f"{name}: its adapter cannot be merged ({error})") from None
    weight: Tensor = copy.get_base_layer().weight.detach()
    return weight
