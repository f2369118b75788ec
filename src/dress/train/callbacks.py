"""What happens beside training: progress, checkpoints, a clean stop on SIGINT or SIGTERM."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import lightning as L
import torch

from dress.base.files import write_aside
from dress.base.progress import CurriculumProgress


class Interrupted(Exception):
    """The run was asked to stop and has saved where it stands."""


class ShowProgress(L.Callback):
    """One advance per optimiser step, with the newest losses."""

    def __init__(self, progress: CurriculumProgress) -> None:
        self.progress = progress

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *args: Any) -> None:
        if trainer.is_global_zero:
            history: Any = module.history
            newest = history[-1] if history else {}
            losses = [f"{name} {value:.3f}" for name, value in newest.items() if name.endswith("/loss")]
            self.progress.advance(1, "  ".join(losses))


class SaveCheckpoint(L.Callback):
    """Write `last.ckpt` every so many optimiser steps, and when a signal asks the run to stop.

    The signal only sets a flag; ranks agree on it at the end of a step, so that all of them stop at
    the same one (Lightning's own handler can hang, RELIABILITY §2). Weights that are not finite are not written:
    the checkpoint before them stays.
    """

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every
        self._asked = False
        self._handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        for number in self._handlers:
            signal.signal(number, self._ask)

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *args: Any) -> None:
        stop = trainer.strategy.reduce_boolean_decision(self._asked, all=False)
        if stop or (trainer.global_step % self.every == 0 and trainer.global_step < trainer.max_steps):
            self._save(trainer)
        if stop:
            raise Interrupted

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.strategy.reduce_boolean_decision(self._asked, all=False):
            self._save(trainer)
            raise Interrupted

    def teardown(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        self._restore()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        self._restore()

    def _ask(self, number: int, frame: Any) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True

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


def precision_for(setting: str) -> str:
    """`auto`: bf16 where the hardware multiplies it (GPU, AVX512-BF16, AMX), else fp32.

    A CPU without bf16 instructions emulates them, more than a hundred times slower than fp32.
    """
    if setting != "auto":
        return setting
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    return "bf16-mixed" if cpu_multiplies_bf16() else "32-true"


def cpu_multiplies_bf16() -> bool:
    """Whether this CPU has bf16 instructions (AVX512-BF16, AMX, or BF16 of arm64) and oneDNN may use them."""
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.exists() else set()
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & flags) and torch.ops.mkldnn._is_mkldnn_bf16_supported()
