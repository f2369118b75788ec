"""A run on two processes ends soon, whichever of them is told to stop or dies, in any stage; nothing is left alive."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TINY
from scripts import begin

SETTINGS = [
    *(text for text in TINY if text != "trainer.devices=1"), "trainer.accelerator=cpu",
    "trainer.devices=2", "parallel.strategy=ddp", "training.threads=1",
    "curriculum.stages.sft.steps=4000", "curriculum.stages.collect.per_shard=1", "curriculum.stages.collect.samples=8",
    "generation.max_new_tokens=100", "generation.batch_size=2", "training.checkpoint_every=2", "data.sizes.eval=400",
    "eval.turns=6",
]  # fmt: skip
"""Long enough in every stage to be met there."""
STAGES = {
    "train": ["curriculum.stages.sft.weights=null", "curriculum.stages.eval.models=[sft]"],
    "collect": [
        "curriculum.stages.collect.model=align",
        "curriculum.stages.dress.weights=align",
        "curriculum.stages.eval.models=[align,dress]",
    ],
    "eval": ["curriculum.stages.eval.models=[align]"],
}
SOON = 12.0
"""Seconds: eight for a rank that waits for one that is gone, and a step, which takes less than one."""


def ranks_of(launcher: int) -> list[int]:
    """Process ids of a run's ranks: what its first process, or torchrun, has started."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return [int(pid) for pid in children if b"train.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def in_stage(folder: Path, stage: str) -> bool:
    match stage:
        case "train":
            return (folder / "stages" / "sft" / "last.ckpt").exists()
        case "collect":
            return len(list((folder / "stages" / "collect" / "shards").glob("*.tar"))) > 1
        case _:
            return (folder / "stages" / "eval" / "cells.json").exists()


LAUNCHERS = {
    "ours": [],
    "torchrun": [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "--signals-to-handle=SIGTERM,SIGINT,SIGUSR1",
    ],
}


def command(tmp_path: Path, stage: str, launcher: str = "ours") -> list[str]:
    """What begins a run, and goes on with it."""
    folders = [f"data.path={tmp_path / 'data'}", f"run={tmp_path / 'run'}"]
    return [sys.executable, *LAUNCHERS[launcher], "src/train.py", *SETTINGS, *STAGES[stage], *folders]


def start(tmp_path: Path, stage: str, launcher: str = "ours") -> tuple[subprocess.Popen[Any], list[int]]:
    """A run that is inside of a stage, and its processes: the launcher, then its ranks."""
    folder, log = tmp_path / "run", (tmp_path / "log").open("w")
    run = begin(command(tmp_path, stage, launcher), cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
    end = time.monotonic() + 120
    while not in_stage(folder, stage) or len(ranks_of(run.pid)) < 2:
        assert run.poll() is None and time.monotonic() < end, (tmp_path / "log").read_text()
        time.sleep(0.02)
    time.sleep(0.3)
    return run, [run.pid, *ranks_of(run.pid)]


WHOM = {"launcher": [0], "rank 0": [1], "rank 1": [2], "all ranks": [1, 2]}
EVERY = [
    (launcher, stage, whom, how)
    for launcher in LAUNCHERS for stage in STAGES for whom in WHOM
    for how in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGKILL)
    if launcher == "ours" or how in (signal.SIGTERM, signal.SIGUSR1)
]  # fmt: skip
FAST = {("ours", "train", "rank 1", signal.SIGUSR1)}


@pytest.mark.parametrize(
    ("launcher", "stage", "whom", "how"),
    [
        pytest.param(*case, marks=() if case in FAST else pytest.mark.slow, id=" ".join(map(str, case)))
        for case in EVERY
    ],
)
def test_a_run_ends_soon_and_leaves_nothing_alive(tmp_path, launcher, stage, whom, how):
    run, processes = start(tmp_path, stage, launcher)
    began = time.monotonic()
    for number in WHOM[whom]:
        os.kill(processes[number], how)
    while (run.poll() is None or any(map(alive, processes))) and time.monotonic() - began < 60:
        time.sleep(0.02)
    seconds, left = time.monotonic() - began, [pid for pid in processes if alive(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    folder, said = tmp_path / "run", (tmp_path / "log").read_text()
    print(f"{launcher}, {stage}, {how.name} to {whom}: {seconds:.1f} s, exit code {run.returncode}, {len(left)} left")
    assert not left and seconds < SOON, said
    if stage == "train":
        assert (folder / "stages" / "sft" / "last.ckpt").exists()
    match how:
        case signal.SIGKILL:
            assert run.returncode in (137, -signal.SIGKILL)
            if whom.startswith("rank"):
                assert f"process {whom[-1]} of the run was ended by SIGKILL; the others end too" in said
        case signal.SIGINT:
            assert run.returncode == 130 and "Go on with:" in said and not (folder / "preempted").exists()
        case _:
            assert (folder / "preempted").exists() and "Go on with:" in said
            assert run.returncode == (75 if launcher == "ours" else 1)  # torchrun makes 1 of every code


@pytest.mark.slow
def test_the_same_command_goes_on_with_a_run_that_a_scheduler_stopped(tmp_path):
    run, _ = start(tmp_path, "train")
    run.send_signal(signal.SIGTERM)
    assert run.wait(60) == 75
    folder = tmp_path / "run"
    other = [*command(tmp_path, "train"), "seed=7"]
    refused = subprocess.run(other, cwd=ROOT, capture_output=True, text=True)
    assert (
        refused.returncode == 1 and "holds a run with other settings" in refused.stderr and "seed=7" in refused.stderr
    )
    again = begin(command(tmp_path, "train"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    end = time.monotonic() + 60
    while not json.loads((folder / "provenance.json").read_text())["resumed"] and time.monotonic() < end:
        time.sleep(0.05)
    again.send_signal(signal.SIGINT)
    said = again.communicate(timeout=60)[0].decode()
    assert again.returncode == 130 and not (folder / "preempted").exists(), said
    assert len(json.loads((folder / "provenance.json").read_text())["resumed"]) == 1


@pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_that_meets_a_destructor_is_not_lost(how, code):
    """Python drops what is raised in one, and the rank would go on."""
    script = f"""
import os, sys, time
from dress.base import processes

class Closing:
    def __del__(self):
        os.kill(os.getpid(), {int(how)})
        time.sleep(0.01)

processes.stop_on_signals()
try:
    Closing()
    time.sleep(10)
except KeyboardInterrupt:
    sys.exit(processes.exit_code())
"""
    began = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == code and time.monotonic() - began < 8, ended.stderr


def test_torchrun_without_a_folder_is_refused():
    one = [sys.executable, "src/train.py", "experiment=sft_only"]
    torchrun = os.environ | {"TORCHELASTIC_RUN_ID": "none", "RANK": "0", "WORLD_SIZE": "2"}
    refused = subprocess.run(one, cwd=ROOT, env=torchrun, capture_output=True, text=True)
    assert refused.returncode == 1 and "expected run=DIR" in refused.stderr
