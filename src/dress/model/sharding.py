"""A model whose parameters are spread over ranks (FSDP2): each holds a part of all, and gathers what it computes with.

A unit is gathered as a whole: each layer of the language model is one, and all else (embeddings, head, projector,
encoder) is the root, which stays gathered from a step's first pass to its last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from dress.base.ranks import of_first, rank
from dress.model.lvlm import LVLM
from dress.model.skeleton import Form, named_tensors, take_form


def shard(model: LVLM, mesh: DeviceMesh) -> None:
    """Spread a model over the ranks of a mesh, in place and for good; every rank calls this.

    Args:
        model: whole, with the same weights on every rank.
        mesh: of one dimension; its device is where the parts go.
    """
    if units(model):
        return
    _divide(model, mesh)
    _find_root(model)


def share_first(model: LVLM, form: Form, spread: torch.device | None) -> None:
    """Give the first rank's tensors to the others, one after another; every rank calls this.

    Args:
        model: whole on the first rank, a skeleton on the others; in place.
        form: of the first rank's.
        spread: this rank's device, where each gets a part and none but the first ever holds all; None: each gets all.
    """
    whole = {name: one.detach() for name, one in named_tensors(model)} if rank() == 0 else {}
    if rank() > 0:
        take_form(model, form, "cpu" if spread is None else "meta")
    if spread is not None:
        _divide(model, init_device_mesh(spread.type, (torch.distributed.get_world_size(),)))
        if rank() > 0:
            model.to_empty(device=spread)
    own = dict(named_tensors(model))
    for name, one in form.tensors.items():
        value = whole.pop(name, None)
        if own[name].numel() and (one.first == name or one.learns is None):  # `to_empty` unties buffers
            _send(value, own[name].detach())
    if spread is not None:
        _find_root(model)


def _divide(model: LVLM, mesh: DeviceMesh) -> None:
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)  # else it would copy a forest, its fp64 weights in bf16
    for layer in model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)


def _find_root(model: LVLM) -> None:
    """Tell FSDP which unit is the root, and which type the gradients of each have, as a first pass would, which would
    gather all: what is trained is in one type, and nothing that is held in bf16 is trained.
    """
    narrow = [p for p in model.parameters() if p.requires_grad and p.dtype == torch.bfloat16]
    for parameter in narrow:
        parameter.requires_grad_(False)
    root: Any = model
    root._get_fsdp_state()._lazy_init()
    for parameter in narrow:
        parameter.requires_grad_()


def _send(value: Tensor | None, own: Tensor) -> None:
    """A tensor of the first rank (`value`, None elsewhere) into what each holds of it: all, or a part."""
    if isinstance(own, DTensor):
        place = own.to_local().device
        whole = torch.empty(own.shape, dtype=own.dtype, device=place) if value is None else value.to(place)
        part = distribute_tensor(whole, own.device_mesh, own.placements)
        own.to_local().copy_(part.to_local())
        return
    sent = (own if value is None else value.to(own.device)).contiguous()
    torch.distributed.broadcast(sent.view(-1).view(torch.uint8), 0)  # whatever its type


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


def full_state(module: nn.Module, names: Collection[str] | None = None) -> dict[str, Tensor]:
    """Weights by name; of a spread module, on the CPU of the first rank only (others: none), and all ranks call.

    Args:
        module: spread or not.
        names: those that are wanted; None for all.
    """
    state = module.state_dict()
    wanted = state.keys() if names is None else state.keys() & set(names)
    if not units(module):
        return {name: value for name, value in state.items() if name in wanted}
    return {name: whole for name, value in state.items() if name in wanted and (whole := gathered(value)) is not None}


def load_full_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put whole weights by name into a module; those that are not named stay. Every rank calls with the same."""
    if not units(module):
        module.load_state_dict(state, strict=False)
        return
    own = module.state_dict()
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(part_like(own[name], value))


def gathered(value: Tensor) -> Tensor | None:
    """A tensor that ranks share, whole on the CPU of the first; None on the others, and all call."""
    whole = value.full_tensor() if isinstance(value, DTensor) else value
    return whole.detach().cpu() if rank() == 0 else None


def part_like(like: Tensor, value: Tensor) -> Tensor:
    """What this rank holds of a whole tensor, in parts as another of its shape; whole where that is so."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def digest_of(state: Mapping[str, Tensor]) -> str:
    """A digest of weights by name to bf16 precision, so that it does not matter in which type they are kept.

    The same on every rank; where they are spread over ranks, all call.
    """
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        whole = gathered(value) if isinstance(value, DTensor) else value
        if whole is not None:
            digest.update(f"{name} {tuple(whole.shape)}".encode())
            digest.update(whole.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes())
    spread = any(isinstance(value, DTensor) for value in state.values())
    return of_first(digest.hexdigest()[:16]) if spread else digest.hexdigest()[:16]


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
