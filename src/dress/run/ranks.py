"""The processes of a run: how many, forked once all is imported where they compute on a CPU, with equal settings."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from dress import config
from dress.base.processes import cores, fork_ranks
from dress.base.ranks import of_ranks, processes, rank

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


def compare_settings(settings: config.Config) -> None:
    """Let the processes of a run meet, and refuse settings that are not those of the first; all call.

    Nothing is done where Lightning starts the others later: it gives them what this process was given.

    Raises:
        ConfigError: names the rank, its machine, the setting, expected and got; on the first rank.
        SystemExit: on the others.
    """
    import torch

    if processes() == 1 or "LOCAL_WORLD_SIZE" not in os.environ:
        return
    if not torch.distributed.is_initialized():
        cuda = torch.cuda.is_available() and not _on_cpu(settings.trainer.accelerator)
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    every = of_ranks((socket.gethostname(), dict(_flat(settings.model_dump(mode="json")))))
    (_, first), *others = every
    for number, (host, own) in enumerate(others, 1):
        for key in sorted(first.keys() | own.keys()):
            expected, got = first.get(key, "nothing"), own.get(key, "nothing")
            if expected != got:
                if rank():  # the first one says it
                    raise SystemExit(1)
                raise config.ConfigError(
                    f"rank {number} ({host}): {key}: expected {expected!r:.80} as on rank 0, got {got!r:.80}. Give "
                    f"every process of a run the same command"
                )


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by their whole names."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _on_cpu(accelerator: str) -> bool:
    """Without beginning anything on a GPU."""
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    import torch

    return accelerator == "cpu" or (
        accelerator == "auto" and not torch.cuda.is_available() and not torch.backends.mps.is_available()
    )
