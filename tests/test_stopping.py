"""A run on two processes ends soon, whichever of them is told to stop or dies, in any stage; nothing is left alive."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, TINY

SETTINGS = [
    *TINY, "trainer.accelerator=cpu", "trainer.devices=2", "parallel.strategy=ddp", "training.threads=1",
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
"""Seconds, of which Lightning's look at its processes takes five, and a step less than one."""


def ranks_of(first: int) -> list[int]:
    """Process ids of a run: the first process, then the one that it started."""
    children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    return [first, *(int(pid) for pid in children if b"train.py" in Path(f"/proc/{pid}/cmdline").read_bytes())]


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


def start(tmp_path: Path, stage: str) -> tuple[subprocess.Popen, list[int]]:
    """A run that is inside of a stage, and its processes."""
    folder = tmp_path / "run"
    command = [sys.executable, "src/train.py", *SETTINGS, *STAGES[stage], f"data.path={tmp_path / 'data'}"]
    log = (tmp_path / "log").open("w")
    run = subprocess.Popen([*command, f"run_dir={folder}"], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
    end = time.monotonic() + 120
    while not in_stage(folder, stage) or len(ranks_of(run.pid)) < 2:
        assert run.poll() is None and time.monotonic() < end, (tmp_path / "log").read_text()
        time.sleep(0.02)
    time.sleep(0.3)
    return run, ranks_of(run.pid)


WHOM = {"all": [0, 1], "rank 0": [0], "rank 1": [1]}
EVERY = [(stage, whom, how) for stage in STAGES for whom in WHOM for how in (signal.SIGTERM, signal.SIGKILL)]
FAST = {("collect", "rank 0", signal.SIGKILL)}


@pytest.mark.parametrize(
    ("stage", "whom", "how"),
    [
        pytest.param(*case, marks=() if case in FAST else pytest.mark.slow, id=f"{case[0]} {case[1]} {case[2].name}")
        for case in EVERY
    ],
)
def test_a_run_ends_soon_and_leaves_nothing_alive(tmp_path, stage, whom, how):
    run, ranks = start(tmp_path, stage)
    began = time.monotonic()
    for rank in WHOM[whom]:
        os.kill(ranks[rank], how)
    while (run.poll() is None or any(map(alive, ranks))) and time.monotonic() - began < 60:
        time.sleep(0.02)
    seconds, left = time.monotonic() - began, [pid for pid in ranks if alive(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    said = (tmp_path / "log").read_text()
    print(f"{stage}, {how.name} to {whom}: {seconds:.1f} s, exit code {run.returncode}, {len(left)} left")
    assert not left and seconds < SOON, said
    if stage == "train":
        assert (tmp_path / "run" / "stages" / "sft" / "last.ckpt").exists()
    if (how, whom) == (signal.SIGKILL, "rank 0") and stage != "train":  # there the exchange of gradients fails first
        assert "process 1 of the run ends: the one that started it" in said
    if how == signal.SIGTERM and whom != "rank 1":
        assert run.returncode == 130 and "Go on with:" in said
