"""How the processes of a run share a model: one has it all, each has it all, or each has a part; checkpoints by name.

A checkpoint holds what is trained, by the names of parameters: one that one strategy and number of ranks wrote is read
by any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy, Strategy
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer

from dress import config
from dress.model.sharding import full_state, gathered, load_full_state, part_like


class ByName(Strategy):
    """Mixed into Lightning's strategies: states by name, and gradients that are exchanged once per optimiser step."""

    restore_checkpoint_after_setup = property(lambda self: True)
    lightning_restore_optimizer = property(lambda self: True)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """What is trained; whole, on the first rank. Every rank calls."""
        module: Any = self.lightning_module
        return full_state(module, module.trained_names())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """State by the names of parameters; whole, on the first rank. Every rank calls."""
        state, names = optimizer.state_dict(), self._names(optimizer)
        return {
            "state": {
                names[number]: {
                    key: gathered(value) if isinstance(value, Tensor) else value for key, value in one.items()
                }
                for number, one in state["state"].items()
            },
            "param_groups": [
                {**group, "params": [names[number] for number in group["params"]]} for group in state["param_groups"]
            ],
        }

    def _names(self, optimizer: Optimizer) -> list[str]:
        """Of an optimiser's parameters, in its order."""
        assert self.lightning_module is not None
        names = {id(parameter): name for name, parameter in self.lightning_module.named_parameters()}
        return [names[id(parameter)] for parameter in _parameters(optimizer)]

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """A checkpoint on the CPU; nothing in it is executed."""
        return dict(torch.load(checkpoint_path, map_location="cpu", mmap=True, weights_only=True))

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take the trained weights of a checkpoint."""
        assert self.lightning_module is not None
        load_full_state(self.lightning_module, checkpoint["state_dict"])

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take the state of the optimisers, by name; by number in checkpoints of 0.2, which had one strategy."""
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            names, parameters = self._names(optimizer), _parameters(optimizer)
            state = {
                number: {
                    key: part_like(parameter, value) if isinstance(value, Tensor) else value
                    for key, value in (saved["state"].get(name) or saved["state"][number]).items()
                }
                for number, (name, parameter) in enumerate(zip(names, parameters, strict=True))
                if name in saved["state"] or number in saved["state"]
            }
            groups = [
                {**group, "params": own["params"]}
                for group, own in zip(saved["param_groups"], optimizer.state_dict()["param_groups"], strict=True)
            ]
            optimizer.load_state_dict({"state": state, "param_groups": groups})

    def pass_of_step(self, last: bool) -> AbstractContextManager[None]:
        """One of a step's passes: gradients are exchanged in the last one."""
        return nullcontext()


class Single(ByName, SingleDeviceStrategy):
    """One process has the model."""


class Replicated(ByName, DDPStrategy):
    """Each process has the model (DDP)."""

    def pass_of_step(self, last: bool) -> AbstractContextManager[None]:
        """See `ByName.pass_of_step`."""
        wrapped: Any = self.model
        return nullcontext() if last else wrapped.no_sync()


class Sharded(ByName, ModelParallelStrategy):
    """Each process has a part of the model (FSDP2).

    Args:
        processes: of the run.
        gather: `pass` gathers a layer for each pass; `step` gathers the model once a step, and holds it meanwhile.
    """

    def __init__(self, processes: int, gather: config.Gather) -> None:
        super().__init__(data_parallel_size=processes, tensor_parallel_size=1, save_distributed_checkpoint=False)
        self.gather = gather

    def pass_of_step(self, last: bool) -> AbstractContextManager[None]:
        """See `ByName.pass_of_step`."""
        module: Any = self.lightning_module
        model: FSDPModule = module.model
        model.set_requires_gradient_sync(last)
        model.set_is_last_backward(last)
        if self.gather == "step":
            model.set_reshard_after_forward(False)
            model.set_reshard_after_backward(last)
        return nullcontext()


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def build_strategy(devices: config.Devices) -> Strategy:
    """The strategy that the settings name; `auto`: one process alone, each of several with the whole model."""
    match devices.strategy:
        case "shard":
            return Sharded(devices.processes, devices.gather)
        case "ddp":
            return Replicated()
        case _:
            return Replicated() if devices.processes > 1 else Single(_device(devices.accelerator))


def _device(accelerator: str) -> torch.device:
    """What one process computes on."""
    for kind, there in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())):
        if there and accelerator in ("auto", "gpu", kind):
            return torch.device(kind, 0)
    return torch.device("cpu")
