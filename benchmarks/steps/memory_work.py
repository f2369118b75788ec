"""What teams do to be weighed: steps over one forest and over several, and the bytes of what each rank holds."""

from __future__ import annotations

import ctypes
import os
import time
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dress import config
from dress.dialogue.batch import Batch, Example, collate
from dress.dialogue.tree import build_tree
from dress.kernels.precision import cpu_multiplies_bf16
from dress.model.sharding import own_part
from dress.train.module import DressModule
from dress.train.parallel import build_trainer
from steps import models
from steps.machine import Memory, pss
from steps.model_memory import of_model
from steps.stage_work import STEPS, Orders
from steps.teams import Member
from steps.tuples import Shape, make, unique_tokens

SMALLEST = 2**20
"""Bytes from which glibc gives every block back at once, so that what is held is what is used."""
PASSES = (1, 1, 3)
"""Forests of the steps: one to begin with, whose optimiser makes its state, and those that are weighed."""


@dataclass(frozen=True)
class MemoryWork:
    """A model, and how its ranks share it."""

    model: models.ModelSpec
    shape: Shape
    devices: config.Devices


def weigh(member: Member, work: MemoryWork) -> None:
    """Train the steps of PASSES; each reply has the bytes of weights, gradients and moments of this rank."""
    ctypes.CDLL(None).mallopt(-3, SMALLEST)  # M_MMAP_THRESHOLD
    before = pss(os.getpid())
    model = models.ours(work.model, work.shape)
    bf16 = bool(work.model.lora) and cpu_multiplies_bf16()
    if bf16:
        model.hold_rounded()
    sizes = of_model(model)
    samples = [
        Example([build_tree(one.encoded())], models.picture(model, one))
        for one in (make(work.shape, number) for number in range(max(PASSES)))
    ]
    steps = [collate(samples[:passes], unique_tokens(work.shape)) for passes in PASSES]
    stage = config.TrainStage(
        weights=None, data={"feedback": 1.0}, phases={"critique": 1.0, "refinement": 1.0}, steps=STEPS,
        records_per_step=1, lr=1e-4, warmup=0, trainable=models.trained(work.model),
    )  # fmt: skip
    training = config.Training(keep_memory=False, checkpointing="off")
    module = DressModule(model, stage, config.Learning(training=training))

    class Weigh(Orders):
        """Counts bytes: of gradients before the optimiser has used them, of all else after it."""

        def on_before_optimizer_step(self, trainer: L.Trainer, module: Any, optimizer: Any) -> None:
            self.gradients_there = _bytes(p.grad for p in module.model.parameters() if p.grad is not None)

        def figures(self, trainer: L.Trainer) -> dict[str, Any]:
            Memory("cpu").forget()
            parameters = list(model.parameters())
            state = (
                value for moments in trainer.optimizers[0].state.values() for name, value in moments.items()
                if name != "step"
            )  # fmt: skip
            return {
                "trained": _bytes(p for p in parameters if p.requires_grad),
                "frozen": _bytes(p for p in parameters if not p.requires_grad),
                "gradients": self.gradients_there, "moments": _bytes(state),
                "held": pss(os.getpid()) - before,
            }  # fmt: skip

    trainer = build_trainer(
        work.devices, callbacks=[Weigh(member)], max_steps=STEPS, max_epochs=1,
        precision="bf16-mixed" if bf16 else "32-true",
    )  # fmt: skip
    trainer.fit(module, DataLoader(_endless(steps), batch_size=None))
    member.reply(sizes=sizes, seconds=time.monotonic() - member.began)


def _endless(steps: list[Batch]) -> Any:
    return [steps[min(number, len(steps) - 1)] for number in range(1000)]


def _bytes(tensors: Any) -> int:
    """Of the parts that this rank holds."""
    return sum(part.numel() * part.element_size() for part in map(own_part, _tensors(tensors)))


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in values if isinstance(value, torch.Tensor)]
