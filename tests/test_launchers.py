"""Parts under Hydra's launchers: submitit's processes on this machine, and a Ray cluster that loses a node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from imports import answers_to, content, photo
from scripts import begin

from dress.base.files import write_lines
from dress.data.shards import Shards, write_shards
from dress.worlds.shapes import generate as shapes

PREPARE, COLLECT = ROOT / "src" / "prepare.py", ROOT / "src" / "collect.py"
pytestmark = pytest.mark.slow


def said(script: Path, *words: str, cwd: Path, code: int = 0, **env: str) -> str:
    """What a command prints, started as a reader does: without this code on Python's path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | env
    done = subprocess.run(
        [sys.executable, str(script), *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def rows_in(folder: Path, rows: int, images: int, size: tuple[int, int] = (24, 16)) -> Path:
    """LLaVA's rows about photos, a few of which cannot be used; many names of one file."""
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "0.jpg").write_bytes(photo(1, size))
    for number in range(1, images):
        os.link(folder / "images" / "0.jpg", folder / "images" / f"{number}.jpg")
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A thing."}]
    values: list[dict[str, Any]] = [
        {"id": str(n), "image": f"{n % images}.jpg", "conversations": [turns[0], turns[1] | {"value": f"Thing {n}."}]}
        for n in range(rows)
    ]
    values[rows // 2]["image"], values[-1] = "none.jpg", values[0]
    (folder / "rows.json").write_text(json.dumps(values))
    return folder


def test_submitit_imports_in_parts(tmp_path: Path) -> None:
    rows_in(tmp_path / "in", 500, 60)
    words = ["source=llava", "path=in", "workers=0", "per_shard=7"]
    said(PREPARE, *words, "out=alone/out", cwd=tmp_path)
    sweep = [*words, "-m", "hydra/launcher=submitit_local", "out=parts", "part=0/3,1/3,2/3"]
    said(PREPARE, *sweep, cwd=tmp_path)
    said(PREPARE, "task=merge", "parts=parts", "out=merged/out", cwd=tmp_path)
    assert content(tmp_path / "merged") == content(tmp_path / "alone")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "parts").rglob("*") if file.is_file()}
    said(PREPARE, *sweep, cwd=tmp_path)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "parts").rglob("*") if file.is_file()} == before
    text = said(PREPARE, *sweep, "held_out=1", cwd=tmp_path, code=1)
    assert "part-000-of-003: holds a part made with other held_out (100 expected, 1 got)" in text


def test_submitit_collects_in_parts(tmp_path: Path) -> None:
    samples = list(shapes.samples("prompts", 12, seed=0))
    write_shards(tmp_path / "prompts", samples, 5)
    write_lines(tmp_path / "answers.jsonl", answers_to(samples)[1:])
    words = ["responder=answers.jsonl", "shards=prompts", "annotator=oracle", "records=12", "per_shard=2", "turns=1"]
    said(COLLECT, *words, "out=alone", cwd=tmp_path)
    said(COLLECT, *words, "-m", "hydra/launcher=submitit_local", "out=parts", "part=0/2,1/2", cwd=tmp_path)
    said(PREPARE, "task=merge", "parts=parts", "out=merged", cwd=tmp_path)
    alone, merged = content(tmp_path / "alone"), content(tmp_path / "merged")
    settings = [json.loads(files.pop("collect.json")) | {"out": ""} for files in (alone, merged)]
    assert merged == alone and "failures.jsonl" in alone and settings[0] == settings[1]
    assert len(Shards(tmp_path / "merged")) == 12


def test_a_ray_cluster_that_loses_a_node_makes_all_parts(tmp_path: Path) -> None:
    rows_in(tmp_path / "in", 1600, 1600, size=(1600, 1600))
    words = ["source=llava", "path=in", "workers=0"]
    said(PREPARE, *words, "out=alone/out", cwd=tmp_path)
    node = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
    from ray import cluster_utils  # here: it takes seconds

    soon = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
    cluster = cluster_utils.Cluster(
        initialize_head=True, head_node_args={**node, "_system_config": soon, "dashboard_host": "127.0.0.1"}
    )
    try:
        second = cluster.add_node(**node)
        (raylet,) = (one.process.pid for one in second.all_processes["raylet"])
        sweep = [*words, "-m", "hydra/launcher=ray_cluster", "out=parts", "part=0/4,1/4,2/4,3/4"]
        with (tmp_path / "said").open("wb") as log:
            environment = os.environ | {"RAY_ADDRESS": cluster.address}
            command = begin([sys.executable, PREPARE, *sweep], cwd=tmp_path, env=environment, stdout=log, stderr=log)
        victim = wait_for_part(command, raylet, tmp_path / "parts")
        cluster.remove_node(second, allow_graceful=False)  # SIGKILL
        assert not (victim / "part.json").exists()
        assert command.wait(200) == 0, (tmp_path / "said").read_text()[-3000:]
    finally:
        cluster.shutdown()
    assert (victim / "part.json").exists() and len(list((tmp_path / "parts").glob("*/part.json"))) == 4
    said(PREPARE, "task=merge", "parts=parts", "out=merged/out", cwd=tmp_path)
    assert content(tmp_path / "merged") == content(tmp_path / "alone")


def wait_for_part(command: subprocess.Popen[bytes], raylet: int, parts: Path) -> Path:
    """The folder of a part that a worker of this node has been at work on for a while."""
    until = time.monotonic() + 120
    while command.poll() is None and time.monotonic() < until:
        files = (file for worker in children(raylet) for file in opened(worker))
        file = next((file for file in files if file.is_relative_to(parts) and file.name == "rows.sqlite"), None)
        if file is not None:
            time.sleep(1.5)
            return file.parent
        time.sleep(0.02)
    raise AssertionError((parts.parent / "said").read_text()[-3000:])


def children(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def opened(process: int) -> list[Path]:
    try:
        return [file.readlink() for file in Path(f"/proc/{process}/fd").iterdir() if file.is_symlink()]
    except OSError:
        return []
