"""A model whose parameters are spread over ranks (FSDP2): each holds a part of all, and gathers what it computes with.

A unit is gathered as a whole: each layer of the language model is one, and all else (embeddings, head, projector,
encoder) is the root, which stays gathered from a step's first pass to its last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from dress.dialogue.batch import blank_forest
from dress.model.lvlm import LVLM

FULL = StateDictOptions(full_state_dict=True, cpu_offload=True, strict=False)


def shard(model: LVLM, mesh: DeviceMesh) -> None:
    """Spread a model over the ranks of a mesh, in place and for good; every rank calls this.

    Args:
        model: whole, with the same weights on every rank.
        mesh: of one dimension; its device is where the parts go.
    """
    if units(model):
        return
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)  # else it would copy a forest, its fp64 weights in bf16
    for layer in model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    with torch.no_grad():  # its first pass tells FSDP which unit is the root
        forest = blank_forest("", torch.device(model.device))
        model(forest, forest.weight)
    reshard(model)


def units(module: nn.Module) -> list[FSDPModule]:
    """What is gathered as one, of a module that is spread over ranks; none of others."""
    return [one for one in module.modules() if isinstance(one, FSDPModule)]


def reshard(model: LVLM) -> None:
    """Drop what passes without gradient left: what is gathered, and the order of layers, which differs between ranks
    that answered different numbers of prompts and says what the next backward pass gathers ahead.
    """
    if isinstance(model, FSDPModule):
        model.reset_iter_state()


@contextmanager
def whole(model: LVLM) -> Iterator[None]:
    """Within the context every rank holds all parameters, and computes without the others; every rank enters it.

    Of a model that is not spread nothing changes.
    """
    parts = units(model)
    for unit in parts:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        reshard(model)
        for unit in parts:
            unit.set_reshard_after_forward(unit is not model, recurse=False)


def full_state(module: nn.Module) -> dict[str, Tensor]:
    """The weights by name; of a spread module, on the CPU of the first rank only (others: none), and all ranks call."""
    if not units(module):
        return dict(module.state_dict())
    return cast(dict[str, Tensor], get_model_state_dict(module, options=FULL))


def load_full_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put whole weights by name into a module; those that are not named stay. Every rank calls with the same."""
    if units(module):
        set_model_state_dict(module, dict(state), options=StateDictOptions(full_state_dict=True, strict=False))
    else:
        module.load_state_dict(state, strict=False)


def own_part(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def clip_gradients(parameters: list[Any], most: float) -> Tensor:
    """Scale gradients down to a norm over all parameters and ranks; the norm before, [] on every rank.

    Args:
        parameters: those that have a gradient; all of them spread over ranks, or none.
        most: the norm; infinity leaves them.
    """
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters])
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    torch.nn.utils.clip_grads_with_norm_(parameters, most, norm)
    return norm
