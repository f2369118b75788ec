"""A model without numbers, for ranks that get these from the first one.

A skeleton is a model that its own constructors make on the meta device: they then read no weights and try nothing out
on numbers. What such trials told the first rank, and how its tensors are held, is its form, which is plain data.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

OWN = ("_parameters", "_buffers", "_modules")
"""Where a module keeps what is replaced or filled."""


@dataclass(frozen=True)
class TensorForm:
    """A parameter or buffer without its numbers.

    Attributes:
        shape: its sizes.
        dtype: in which it is held.
        learns: whether it takes a gradient; None for a buffer.
        saved: whether a state dict names it.
        first: the first of its names; another one than its own where it is tied.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    learns: bool | None
    saved: bool
    first: str


@dataclass(frozen=True)
class Form:
    """What there is of a model beside its numbers.

    Attributes:
        kinds: classes of modules, by the names of both.
        tensors: by all their names.
        facts: see `LVLM.facts`.
        random: state of torch's generator once it was built.
    """

    kinds: dict[str, str]
    tensors: dict[str, TensorForm]
    facts: dict[str, Any]
    random: Tensor


def without_numbers(form: Form | None) -> AbstractContextManager[Any]:
    """Modules that are made within have no numbers, where there is the form of a model that has them."""
    return nullcontext() if form is None else torch.device("meta")


def on_meta() -> bool:
    """Whether modules are being made without numbers: no weights are read then, and nothing is tried out on them."""
    return torch.get_default_device().type == "meta"


def form_of(model: nn.Module, facts: dict[str, Any]) -> Form:
    """What other ranks need to know of a model.

    Args:
        model: whole.
        facts: see `LVLM.facts`.
    """
    saved, first = model.state_dict().keys(), dict[int, str]()
    tensors = {
        name: TensorForm(
            tuple(one.shape), one.dtype, one.requires_grad if isinstance(one, nn.Parameter) else None, name in saved,
            first.setdefault(id(one), name),
        )
        for name, one in named_tensors(model)
    }  # fmt: skip
    return Form(_kinds(model), tensors, facts, torch.get_rng_state())


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers, saved or not, by all their names."""
    return chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))


def take_form(model: nn.Module, form: Form, device: str) -> None:
    """Give a skeleton the tensors of a form, still without numbers: held and tied as there.

    Args:
        model: in place.
        form: of the first rank's model.
        device: `meta`, or where there is room for them.
    """
    tensors_by_name: dict[str, Tensor] = {}
    for place, module in model.named_modules(remove_duplicate=False):
        for tensors in (module._parameters, module._buffers):
            for name, value in tensors.items():
                if value is None:
                    continue
                one = form.tensors[f"{place}.{name}".lstrip(".")]
                if one.first not in tensors_by_name:
                    empty = torch.empty(one.shape, dtype=one.dtype, device=device)
                    tensors_by_name[one.first] = (
                        empty if one.learns is None else nn.Parameter(empty, requires_grad=one.learns)
                    )
                tensors[name] = tensors_by_name[one.first]


def difference(model: nn.Module, form: Form) -> str | None:
    """Why a skeleton cannot stand for the model that a form is of; None where it can."""
    kinds, shapes = _kinds(model), {name: tuple(one.shape) for name, one in named_tensors(model)}
    expected = {name: one.shape for name, one in form.tensors.items()}
    for what, mine, theirs in (("a module", kinds, form.kinds), ("a tensor", shapes, expected)):
        for name in sorted(mine.keys() | theirs.keys()):
            if mine.get(name) != theirs.get(name):
                got, expected_one = (one.get(name, "nothing") for one in (mine, theirs))
                return f"{what}, {name}, is {got} without weights and {expected_one} with them"
    saved = {name for name, one in form.tensors.items() if one.saved}
    if saved != model.state_dict().keys():
        return f"{min(saved ^ model.state_dict().keys())} is saved only with weights, or only without"
    for place, module in model.named_modules():
        for name, value in vars(module).items():
            if name not in OWN and any(isinstance(one, Tensor) and one.is_meta for one in _members(value)):
                return f"{place}.{name} is a tensor, and no parameter or buffer"
    return None


def _members(value: Any) -> Collection[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else [value]


def _kinds(model: nn.Module) -> dict[str, str]:
    return {name: type(module).__name__ for name, module in model.named_modules(remove_duplicate=False)}
