"""How the processes of a run share a model: one has it all, each has it all, or each has a part; checkpoints by name.

A checkpoint holds what is trained, by the names of parameters: one that one strategy and number of ranks wrote is read
by any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy, Strategy
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer

from dress import config
from dress.model.sharding import FULL, full_state, load_full_state


class ByName(Strategy):
    """Mixed into Lightning's strategies: states by name, and gradients that are exchanged once per optimiser step."""

    restore_checkpoint_after_setup = property(lambda self: True)
    lightning_restore_optimizer = property(lambda self: True)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """What is trained; whole, on the first rank. Every rank calls."""
        module: Any = self.lightning_module
        trained = module.trained_names()
        return {name: value for name, value in full_state(module).items() if name in trained}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """State by the names of parameters; whole, on the first rank. Every rank calls."""
        assert self.lightning_module is not None
        plain = getattr(optimizer, "_optimizer", optimizer)
        return cast(dict[str, Any], get_optimizer_state_dict(self.lightning_module, plain, options=FULL))

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """A checkpoint on the CPU; nothing in it is executed."""
        return dict(torch.load(checkpoint_path, map_location="cpu", mmap=True, weights_only=True))

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take the trained weights of a checkpoint."""
        assert self.lightning_module is not None
        load_full_state(self.lightning_module, checkpoint["state_dict"])

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take the state of the optimisers, by name."""
        assert self.lightning_module is not None
        options = StateDictOptions(full_state_dict=True, strict=False)
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            set_optimizer_state_dict(self.lightning_module, optimizer, optim_state_dict=state, options=options)

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

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """See `ByName.load_checkpoint`: Lightning's own would put it into the model at once."""
        return ByName.load_checkpoint(self, checkpoint_path, weights_only)


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
