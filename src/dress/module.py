"""The LightningModule: one training step for every phase.

loss = sum of weight x negative log-likelihood / sum of weight, over the whole optimiser step (all
forests, all ranks), so that packing and ranks change nothing.
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from dress import config
from dress.dialogue.batch import Forest, Step
from dress.dialogue.spans import PHASE_NAMES
from dress.model.lvlm import LVLM
from dress.model.memory import keep_freed_memory, needs_checkpointing


class DressModule(L.LightningModule):
    """Trains an LVLM through one stage.

    Args:
        model: trained in place.
        stage: its steps, learning rate and trainable parts.
        training: clipping and logging.
        steps_before: optimiser steps of the stages before, for `curriculum/step`.
        tokens: of the largest forest.
    """

    def __init__(
        self, model: LVLM, stage: config.TrainStage, training: config.Training, steps_before: int = 0, tokens: int = 0
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model, self.stage, self.training_settings = model, stage, training
        self.steps_before, self.tokens = steps_before, tokens
        self.history: list[dict[str, float]] = []
        """What was logged, by `curriculum/step`; kept in checkpoints."""
        self._since = time.monotonic()
        self._sums = torch.zeros(3, len(PHASE_NAMES), dtype=torch.float64)
        self._packing = torch.zeros(3, dtype=torch.float64)  # records split; room in full forests, tokens there
        self._tokens = 0
        self._held = False  # frozen weights, in bf16
        self._held_out = torch.zeros(2, len(PHASE_NAMES), dtype=torch.float64)

    def on_fit_start(self) -> None:
        """Settle what is held in memory: freed blocks, frozen weights, activations (`training.checkpointing`)."""
        if self.training_settings.keep_memory and self.device.type == "cpu":
            keep_freed_memory()
        if str(self.trainer.precision) == "bf16-mixed":
            self.model.hold_frozen(torch.bfloat16)
            self._held = True
        setting, language = self.training_settings.checkpointing, self.model.language
        half = "16" in str(self.trainer.precision)
        if setting == "on" or (setting == "auto" and needs_checkpointing(self.model, self.tokens, self.device, half)):
            language.activation_checkpointing_enable({"use_reentrant": False})
        else:
            language.activation_checkpointing_disable()

    def on_fit_end(self) -> None:
        if self._held:
            self.model.hold_frozen(torch.float32)

    def training_step(self, step: Step, batch_idx: int) -> Tensor:
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        self._packing += torch.tensor([step.split, step.room, step.filled], dtype=torch.float64)
        assert not isinstance(optimizer, list) and isinstance(scheduler, LRScheduler)
        weight = sum((f.weight.sum() for f in step.forests), torch.zeros((), dtype=torch.float64, device=self.device))
        weight = self.trainer.strategy.reduce(weight, reduce_op="sum")
        loss = torch.zeros((), device=self.device)
        for number, forest in enumerate(step.forests):
            with self._no_sync(last=number == len(step.forests) - 1):
                part = self._loss(forest, weight.clamp(min=1e-12))
                self.manual_backward(part * world if (world := self.trainer.world_size) > 1 else part)
            loss += part.detach()
        if not step.forests and self.trainer.world_size > 1:
            self.manual_backward(torch.stack([p.sum() * 0 for p in self.parameters() if p.requires_grad]).sum())
        norm = torch.nn.utils.clip_grad_norm_(
            [p for p in self.parameters() if p.grad is not None], self.training_settings.clip
        )
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        self._log(float(norm), float(scheduler.get_last_lr()[0]))
        return loss

    def _loss(self, forest: Forest, total: Tensor) -> Tensor:
        """Sum over entries of weight x negative log-likelihood ÷ total."""
        loss, nll = self.model(forest, total)
        with torch.no_grad():
            for row, values in enumerate((nll.double() * forest.weight, forest.weight, torch.ones_like(forest.weight))):
                self._sums[row].scatter_add_(0, forest.phase.cpu(), values.cpu())
            self._tokens += forest.tokens
        return loss

    def validation_step(self, step: Step, batch_idx: int) -> None:
        one = torch.ones((), dtype=torch.float64, device=self.device)
        for forest in step.forests:
            _, nll = self.model(forest, one)
            for row, values in enumerate((nll.double() * forest.weight, forest.weight)):
                self._held_out[row].scatter_add_(0, forest.phase.cpu(), values.cpu())

    def on_validation_epoch_end(self) -> None:
        """Mean loss on held-out records, by phase."""
        sums = self.trainer.strategy.reduce(self._held_out.to(self.device), reduce_op="sum").cpu()
        logged = {"curriculum/step": float(self.steps_before + self.trainer.global_step)}
        for name, loss, weight in zip(PHASE_NAMES, *sums.tolist(), strict=True):
            if weight:
                logged[f"val/{name}/loss"] = loss / weight
        self.history.append(logged)
        self._send(logged)
        self._held_out.zero_()

    def _no_sync(self, last: bool) -> Any:
        """Gradients are exchanged once per optimiser step."""
        wrapped: Any = self.trainer.strategy.model
        return nullcontext() if last or not hasattr(wrapped, "no_sync") else wrapped.no_sync()

    def _log(self, norm: float, lr: float) -> None:
        """Means since the last log, by phase."""
        done = self.trainer.global_step
        if done % self.training_settings.log_every and done != self.stage.steps:
            return
        sums = self.trainer.strategy.reduce(self._sums.to(self.device), reduce_op="sum").cpu()
        seconds = time.monotonic() - self._since
        logged = {"curriculum/step": float(self.steps_before + done)}
        for number, name in enumerate(PHASE_NAMES):
            loss, weight, count = sums[:, number].tolist()
            if weight:
                logged[f"{name}/loss"] = loss / weight
                logged[f"{name}/supervised_tokens"] = count
        split, room, filled = self.trainer.strategy.reduce(self._packing.to(self.device), reduce_op="sum").tolist()
        logged["train/split_trees"] = split
        if room:
            logged["train/forest_fill"] = filled / room
        logged["train/grad_norm"] = norm
        logged["train/lr"] = lr
        self.history.append(logged)
        speed = {
            "train/tokens_per_second": self._tokens * self.trainer.world_size / max(seconds, 1e-9),
            "train/supervised_tokens_per_second": sums[2].sum().item() / max(seconds, 1e-9),
        }
        self._send({**logged, **speed})
        self._since, self._tokens = time.monotonic(), 0
        self._sums.zero_()
        self._packing.zero_()

    def _send(self, values: dict[str, float]) -> None:
        """One point to every logger: what goes through `self.log` is sent again at every step."""
        for logger in self.trainer.loggers:
            logger.log_metrics(values, step=int(values["curriculum/step"]))

    def configure_optimizers(self) -> Any:
        parameters = [p for p in self.parameters() if p.requires_grad]
        decayed = [p for p in parameters if p.ndim >= 2]
        plain = [p for p in parameters if p.ndim < 2]
        optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": self.stage.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=self.stage.lr,
            betas=(0.9, 0.98),
            fused=True,
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: cosine(step, self.stage.steps, self.stage.warmup)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["dress"] = {
            "history": self.history, "sums": self._sums.tolist(), "packing": self._packing.tolist()
        }  # fmt: skip

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint["dress"]["history"]
        self._sums = torch.tensor(checkpoint["dress"]["sums"], dtype=torch.float64)
        self._packing = torch.tensor(checkpoint["dress"]["packing"], dtype=torch.float64)


def cosine(step: int, steps: int, warmup: float) -> float:
    """Learning-rate factor: linear warm-up over a share of the steps, then a cosine down to 0.02."""
    rise = max(1, round(steps * warmup))
    if step < rise:
        return (step + 1) / rise
    turn = (step - rise) / max(1, steps - rise)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, turn)))
