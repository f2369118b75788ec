"""The processes of a run on this machine's CPU: forked once everything is imported."""

from __future__ import annotations

import os

from dress import config
from dress.base.processes import cores, fork_ranks

MOST = 4
"""Processes on a CPU: more of them share its memory's speed."""


def settle_devices(settings: config.Config) -> config.Config:
    """The settings with a number for `trainer.devices=auto`.

    On a CPU a process for every core, at most `MOST`, none of which has less than two records of a step; one on other
    devices. Where somebody else started this process, as many as it started here.
    """
    if settings.trainer.devices != "auto":
        return settings
    started = os.environ.get("LOCAL_WORLD_SIZE", "")
    if started.isdigit():
        number = int(started)
    elif settings.parallel.strategy == "single":
        number = 1
    elif _on_cpu(settings.trainer.accelerator):
        stages = (settings.curriculum.stages[name] for name in settings.curriculum.order)
        records = [stage.records_per_step for stage in stages if isinstance(stage, config.TrainStage)]
        number = max(1, min(cores(), MOST, *(size // 2 for size in records)))
    else:
        number = 1
    trainer = settings.trainer.model_copy(update={"devices": number})
    return settings.model_copy(update={"trainer": trainer})


def start_ranks(settings: config.Config) -> None:
    """Go on in as many processes as the settings name, where they compute on the CPU of one machine.

    Nothing is done in one that somebody else started (torchrun, SLURM, Lightning), nor for GPUs: there Lightning starts
    the others, since what CUDA has begun cannot be forked.
    """
    devices = settings.devices
    started = {"RANK", "LOCAL_RANK", "SLURM_PROCID"} & os.environ.keys()
    if devices.devices == 1 or devices.num_nodes > 1 or started or not _on_cpu(devices.accelerator):
        return
    import torch

    fork_ranks(devices.devices)
    if not settings.training.threads:
        torch.set_num_threads(max(1, cores() // devices.devices))


def _on_cpu(accelerator: str) -> bool:
    """Without beginning anything on a GPU."""
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    import torch

    return accelerator == "cpu" or (
        accelerator == "auto" and not torch.cuda.is_available() and not torch.backends.mps.is_available()
    )
