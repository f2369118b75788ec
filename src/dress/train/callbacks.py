"""What happens beside training: progress, checkpoints, a clean stop on SIGINT or SIGTERM."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import lightning as L
import torch

from dress.base import processes
from dress.base.files import write_aside
from dress.base.processes import Interrupted
from dress.base.progress import CurriculumProgress
from dress.config.targets import CALLBACK, build


class ShowProgress(L.Callback):
    """One advance per optimiser step, with the newest losses."""

    def __init__(self, progress: CurriculumProgress) -> None:
        self.progress = progress

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *args: Any) -> None:
        if trainer.is_global_zero:
            history: Any = module.history
            newest: dict[str, float] = next(
                (row for row in reversed(history) if "train/loss" in row), {}
            )  # not a held-out loss alone
            losses = [f"{name} {value:.3f}" for name, value in newest.items() if name.endswith("/loss")]
            self.progress.advance(1, "  ".join(loss for loss in losses if not loss.startswith("train/")))

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        waiting: Any = module
        waiting.send_waiting()


class SaveCheckpoint(L.Callback):
    """Write `last.ckpt` every so many optimiser steps, and when a signal asks the run to stop.

    The signal only sets a flag; ranks agree on it at the end of a step, so that all of them stop at
    the same one (Lightning's own handler can hang). Weights that are not finite are not written:
    the checkpoint before them stays.
    """

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every
        self._asked = False
        self._handlers = {number: signal.getsignal(number) for number in processes.STOPPING}

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        for number in self._handlers:
            signal.signal(number, self._ask)

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *args: Any) -> None:
        stop = self._agreed(trainer)
        if stop or (trainer.global_step % self.every == 0 and trainer.global_step < trainer.max_steps):
            self._save(trainer)
        if stop:
            raise Interrupted

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self._agreed(trainer):
            self._save(trainer)
            raise Interrupted

    def teardown(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        self._restore()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        self._restore()

    def _ask(self, number: int, frame: Any) -> None:
        processes.note(number)
        if self._asked and number == signal.SIGINT:  # a scheduler's may come twice, from it and from the launcher
            raise KeyboardInterrupt
        self._asked = True

    def _agreed(self, trainer: L.Trainer) -> bool:
        """Whether any rank was asked to stop; then all know whether a scheduler asked."""
        stop: bool = trainer.strategy.reduce_boolean_decision(self._asked, all=False)
        if stop and trainer.strategy.reduce_boolean_decision(processes.preempted(), all=False):
            processes.note(signal.SIGTERM)
        return stop

    def _save(self, trainer: L.Trainer) -> None:
        module: Any = trainer.lightning_module
        module.check_weights()
        state = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        if trainer.is_global_zero:
            with write_aside(self.path) as aside:
                torch.save(state, aside)
        trainer.strategy.barrier()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


def build_callbacks(callbacks: dict[str, dict[str, Any]]) -> list[L.Callback]:
    """Callbacks beside DRESS's own, by name and `_target_`; new ones for every stage.

    Raises:
        ValueError: a class that is no callback of Lightning, or refuses its arguments; names the setting.
    """
    return [build(spec, f"callbacks.{name}", CALLBACK) for name, spec in callbacks.items()]
