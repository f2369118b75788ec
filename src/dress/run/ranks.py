"""The processes of a run on this machine's CPU: forked once everything is imported."""

from __future__ import annotations

import os

from dress import config
from dress.base.processes import fork_ranks


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
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // devices.devices))


def _on_cpu(accelerator: str) -> bool:
    """Without beginning anything on a GPU."""
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    import torch

    return accelerator == "cpu" or (
        accelerator == "auto" and not torch.cuda.is_available() and not torch.backends.mps.is_available()
    )
