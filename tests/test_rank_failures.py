"""What goes wrong on one process of a run ends it everywhere, with one message that names it and the mend."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from scripts import begin, free_port
from test_stopping import SETTINGS, start

SHORT = [
    "curriculum.stages.sft.steps=2", "curriculum.stages.collect.samples=1", "curriculum.stages.eval.records=2",
    "eval.turns=1", "generation.max_new_tokens=4", "curriculum.stages.eval.models=[sft]", "curriculum.run=[sft,eval]",
]  # fmt: skip


def together(tmp_path: Path, *different: list[str], places: list[Path] | None = None) -> list[tuple[int, str, str]]:
    """A run of two processes that somebody else starts, as torchrun does: exit code, output and errors of each."""
    port, ranks = free_port(), []
    for number, more in enumerate(different):
        env = {
            "RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
            "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
        typed = [*SETTINGS, *SHORT, f"run={tmp_path / 'run'}", *more]
        ranks.append(
            begin(
                [sys.executable, ROOT / "src" / "train.py", *typed], env=os.environ | env, text=True,
                cwd=places[number] if places else tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
        )  # fmt: skip
    said = [rank.communicate(timeout=120) for rank in ranks]
    return [(rank.returncode, *texts) for rank, texts in zip(ranks, said, strict=True)]


def test_settings_of_another_process_are_refused_by_name(tmp_path):
    (code, out, said), (other, _, silent) = together(tmp_path, ["seed=1"], ["seed=1", "data.sizes.eval=7"])
    assert (code, other) == (1, 1), out + said
    assert "data.sizes.eval: expected 400 as on rank 0, got 7" in said and f"rank 1 ({socket.gethostname()})" in said
    assert "Traceback" not in said and "expected" not in silent
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_file_that_one_node_lacks_is_named(tmp_path, shapes_folder):
    """Each process looks for the data below the folder where it was started."""
    here, there = tmp_path / "here", tmp_path / "there"
    for place in (here, there):
        shutil.copytree(shapes_folder, place / "data")
    shutil.rmtree(there / "data" / "sft")
    shards = ["data=shards", "data.path=data"]
    (code, out, said), (other, _, names) = together(tmp_path, shards, shards, places=[here, there])
    assert code != 0 and other == 1, out + said
    assert names.startswith("process 1 of the run: data: expected shards (*.tar) for stage sft in data/sft")
    assert "Traceback" not in names and not (tmp_path / "run" / "preempted").exists()


@pytest.mark.slow
def test_a_full_disk_of_one_process_is_named_and_asks_for_no_requeue(tmp_path):
    run, processes = start(tmp_path, "collect", "torchrun")
    shard = min(file.stat().st_size for file in (tmp_path / "run" / "stages" / "collect" / "shards").glob("*.tar"))
    assert (tmp_path / "log").stat().st_size < shard - 3000, "the message would not fit below the limit"
    resource.prlimit(processes[2], resource.RLIMIT_FSIZE, (shard - 1, shard - 1))
    assert run.wait(60) == 1
    said = (tmp_path / "log").read_text()
    assert "process 1 of the run: " in said and "File too large" in said and ".tar" in said
    assert not (tmp_path / "run" / "preempted").exists() and "Go on with" not in said
