"""The benchmarks of several processes and of a first GPU: their arithmetic, and whole runs on toys."""

from __future__ import annotations

import json
import mmap
import multiprocessing
import os
import shlex
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, small_model
from scripts import run_script

sys.path.insert(0, str(ROOT / "benchmarks"))

from steps import gpu_results, model_memory, scaling_results
from steps import teams as team_module
from steps.flops import Sizes
from steps.machine import pss
from steps.model_memory import CHECKPOINTS, Model, Unit, of_model, rank_of
from steps.models import ModelSpec, ours
from steps.teams import PSS, Spec, Team, TeamError, interleave
from steps.tuples import TOY, unique_tokens

SCALE = {
    ("LLaVA-1.5-7B", "nf4"): [12.3, 15.2, 21.1, 32.7], ("LLaVA-1.5-13B", "nf4"): [18.7, 23.0, 31.6, 48.9],
    ("Qwen2.5-VL-7B", "nf4"): [14.8, 17.4, 22.6, 33.1], ("LLaVA-1.5-7B", "bf16"): [21.9, 24.9, 30.7, 42.3],
    ("LLaVA-1.5-13B", "bf16"): [37.5, 41.8, 50.4, 67.7], ("Qwen2.5-VL-7B", "bf16"): [24.5, 27.1, 32.3, 42.8],
}  # fmt: skip
"""GB by hand: base, LoRA, embeddings and head, encoder, projector, activations, logits, context."""


def test_memory_of_real_checkpoints_is_that_of_the_design():
    for row in model_memory.table():
        expected = SCALE[str(row["checkpoint"]), str(row["base"])]
        assert [row[str(tokens)] for tokens in model_memory.TOKENS] == pytest.approx(expected, abs=0.25), row
    rows = model_memory.sharded()
    assert [row["all"] for row in rows] == pytest.approx([108, 208, 122], abs=0.6)
    seven = CHECKPOINTS[0].model(64)
    assert 16 * sum(unit.trained for unit in seven.layers) / 1e9 == pytest.approx(2.56, abs=0.005)
    assert CHECKPOINTS[0].kept(1000, checkpointing=False) / 1e9 == pytest.approx(6.0, abs=0.05)


def test_ranks_share_what_they_hold_and_gather_the_root_and_a_layer():
    model = Model([Unit(100, 10.0), Unit(200, 20.0)], Unit(50, 4.0))
    single, ddp = (rank_of(model, kind) for kind in ("single", "ddp"))
    assert (single.weights, single.moments, single.gradients) == (4 * 350 + 34, 8 * 350, 4 * 350)
    assert ddp.held - single.held == 4 * 350
    part = rank_of(model, "shard", 2)
    assert (part.held, part.gathered) == (single.held / 2, 204 + 820)
    assert (part.gradients, part.whole) == (4 * 350 / 2, 4 * 200)
    assert rank_of(model, "shard", 2, passes=3).whole == 4 * 350
    assert rank_of(model, "shard", 2, gather="step").gathered == single.weights


def test_sizes_are_read_from_a_model(tokenizer):
    model = small_model(tokenizer)
    model.set_trainable(["projector"])
    model.round({"language"})
    model.hold_rounded()
    sizes = of_model(model)
    assert sizes.trained == sum(p.numel() for p in model.projector.parameters()) == sizes.root.trained
    assert sizes.weights == sum(p.numel() * p.element_size() for p in model.parameters())
    assert len(sizes.layers) == 2 and sizes.layer.frozen == sum(
        p.numel() * p.element_size() for p in model.layers[0].parameters()
    )


def test_the_benchmarks_model_with_lora_has_the_sizes_of_the_arithmetic():
    """Beside norms, which the arithmetic leaves out."""
    sizes = Sizes(2, 64, 96, 4, 2, 128)
    model = ours(ModelSpec(sizes, lora=4, tied=False, tower_width=64, tower_layers=1), TOY)
    model.hold_rounded()
    mine = of_model(model)
    like = model_memory.Checkpoint("", sizes, 0, sum(p.numel() for p in model.projector.parameters())).model(4)
    assert [unit.trained for unit in mine.layers] == [unit.trained for unit in like.layers]
    assert mine.trained == like.trained
    norms = 4 * 2 * sizes.width
    assert [unit.frozen for unit in mine.layers] == [unit.frozen + norms for unit in like.layers]


def echo(member, given) -> None:
    member.reply(pid=os.getpid(), startup=time.monotonic() - member.began)
    hold = []
    while (order := member.orders()) is not None:
        if order == "fail":
            raise ValueError("no such order")
        hold = [mmap.mmap(-1, order)]  # a heap may have room for it already
        for place in range(0, order, mmap.PAGESIZE):
            hold[0][place] = 1
        time.sleep(0.2)  # several looks, also on a busy machine
        member.reply(rank=os.environ.get("RANK", "0"), given=given, held=len(hold[0]))
        hold.clear()


def test_teams_take_turns_and_their_memory_is_seen(monkeypatch):
    monkeypatch.setattr(team_module, "CONTEXT", multiprocessing.get_context("fork"))  # loaded already
    teams = {f"{n}": Team(Spec(f"{n}", n, 1, echo, n)) for n in (1, 2)}
    try:
        take_turns(teams)
    finally:  # else this process waits for them at its end
        for team in teams.values():
            team.stop()
    assert not any(team.process.is_alive() for team in teams.values())


def take_turns(teams) -> None:
    pids = [reply["pid"] for reply in teams["2"].ready]
    assert len(set(pids)) == 2 and os.getpid() not in pids and all(pss(pid) > 0 for pid in pids)
    timed = interleave(teams, 1000, 3)
    assert [len(one.seconds) for one in timed.values()] == [3, 3] and min(timed["1"].seconds) > 0.04
    assert [reply["rank"] for reply in timed["2"].replies[0]] == ["0", "1"]
    with PSS(pids) as memory:
        teams["2"].ask(40_000_000)
    assert all(35e6 < growth < 60e6 for growth in memory.growth), memory.growth
    with pytest.raises(TeamError, match=r"^1: ValueError: no such order"):
        teams["1"].ask("fail")


@pytest.mark.slow
def test_a_quick_run_of_several_processes(tmp_path):
    (command,) = documented("scaling.py")
    assert command == ["--quick", "--out", "bench"]
    done = run_script(ROOT / "benchmarks/scaling.py", *command[:-1], str(tmp_path), cwd=ROOT, timeout=500)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    figures = json.loads((tmp_path / "scaling.json").read_text())
    for stage in ("sft", "dress"):
        gate = figures["stages"][stage]["gate"]["2 processes, 1 thread each"]
        assert gate["targets"] and gate["tensors"] and gate["gradient"] < 1e-5
        assert figures["overhead"][stage]["gate"]["weights"] <= 1e-6
        assert figures["overhead"][stage]["gate"]["passes"]
    assert figures["stages"]["collect"]["gate"]["2 processes, 1 thread each"]["passes"]
    assert len(figures["memory"]["counted"]) == 8 and all(one["passes"] for one in scaling_results.gates(figures))
    page = (tmp_path / "scaling.md").read_text()
    assert "| shard, 2 |" in page.replace("projector and LoRA, rank 64 | ", "| ") and "**no**" not in page


def documented(script: str) -> list[list[str]]:
    """Arguments of the script's commands in docs/performance.md."""
    lines = (ROOT / "docs/performance.md").read_text(encoding="utf-8").splitlines()
    return [shlex.split(line)[2:] for line in lines if line.startswith(f"python benchmarks/{script}")]


def on_toys(tmp_path: Path, *parts: str, more: tuple[str, ...] = ()) -> tuple[int, dict]:
    arguments = ["--tiny", "--device", "cpu", "--out", str(tmp_path), *more, "--parts", *parts]
    (command,) = documented("gpu.py")
    assert command[:4] == arguments[:4] and command[5:] == ["--parts", "step 7B", "collect 7B"]
    done = run_script(ROOT / "benchmarks/gpu.py", *arguments, cwd=ROOT, timeout=500)
    return done.returncode, json.loads((tmp_path / "gpu.json").read_text())


@pytest.mark.slow
def test_what_a_first_gpu_is_asked_on_toys(tmp_path):
    code, figures = on_toys(tmp_path, "step 1.5B", "step 7B", "collect 1.5B", "collect 7B", "equality")
    assert code == 0, figures
    for name in ("1.5B", "7B"):
        step, answers = figures["parts"][f"step {name}"], figures["parts"][f"collect {name}"]
        assert step["mfu"] > 0 and step["peak"] > 0 and step["predicted"][0] < step["predicted"][1]
        assert step["forest"] == step["tuples"] * unique_tokens(TOY)
        assert (
            answers["rounds"][0][1] <= answers["answers"] * answers["new_tokens"] and answers["tokens_per_second"] > 0
        )
    tests = figures["parts"]["equality"]["tests"]
    assert len(tests) == 5 and all(test["end"] == "passes" for test in tests.values())
    page = (tmp_path / "gpu.md").read_text()
    assert "a toy, untied" in page and "## Equality" in page

    code, again = on_toys(tmp_path, "step 7B", more=("--limit", "1"))
    assert code == 1 and again["parts"]["step 7B"]["error"] == "not done after 1 s"
    assert again["parts"]["collect 7B"] == figures["parts"]["collect 7B"]  # stays
    assert "**step 7B: not done after 1 s**" in (tmp_path / "gpu.md").read_text()


def test_a_part_that_fails_is_named_on_the_page_of_a_gpu(tmp_path):
    head = {"machine": {"cpu": "a CPU", "versions": {"torch": "1", "lightning": "2"}}, "gpus": ["NVIDIA H200"]}
    parts = {"step 7B": {"error": "exit code 1", "seconds": 3.0, "passes": False}}
    gpu_results.write(tmp_path, head | {"command": "c", "what": "w", "commit": "abc", "parts": parts})
    assert "**step 7B: exit code 1** (3 s)" in (tmp_path / "gpu.md").read_text()
    assert gpu_results.line("step 7B", parts["step 7B"]) == "FAILED: exit code 1"
