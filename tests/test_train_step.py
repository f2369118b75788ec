"""The benchmark of training steps: its floor, its gate, its ratios, and a whole run on a toy."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from scripts import run_script

sys.path.insert(0, str(ROOT / "benchmarks"))

from steps import packing, results, rounds
from steps.flops import SMOLLM2_135M, floor
from steps.gate import Targets, compare, save
from steps.tuples import STD, TOY, make, unique_tokens

from dress.dialogue.tree import build_tree

BENCH = [sys.executable, str(ROOT / "benchmarks/train_step.py")]


@pytest.mark.parametrize("name, lora, full", [("STD-256", 0.72, 1.03), ("STD-576", 0.95, 1.33)])
def test_the_floor_is_that_of_the_published_formula(name, lora, full):
    trees = [build_tree(make(STD[name], 0, image=False).encoded())]
    assert len(trees[0]) == unique_tokens(STD[name])
    assert floor(SMOLLM2_135M, trees, full=False) / 1e12 == pytest.approx(lora, abs=0.005)
    assert floor(SMOLLM2_135M, trees) / 1e12 == pytest.approx(full, abs=0.005)


@pytest.mark.parametrize("name, tokens, operations", [("STD-256", 1.71, 1.59), ("STD-576", 2.17, 1.98)])
def test_operations_shrink_by_less_than_tokens(name, tokens, operations):
    """By hand, of STD-256: (0.808 x 1.709 + 0.122 + attention 0.100 x 1.28) / (0.808 + 0.122 + 0.100)."""
    assert results.ragged_ratio(STD[name]) == pytest.approx(tokens, abs=0.005)
    assert results.operations_ratio(STD[name], SMOLLM2_135M) == pytest.approx(operations, abs=0.02)


def test_rows_and_dialogues_hold_the_same_targets():
    one = make(TOY, 0)
    supervised = sum(float(d.weights.sum()) for d in one.encoded())
    for merged, count in ((False, 6), (True, 4)):
        rows = one.rows(merged)
        assert len(rows) == count
        assert sum(len(t.ids) * t.weight for row in rows for t in row) == supervised


def test_the_gate_sees_another_loss_gradient_or_target(tmp_path):
    gradient = {"w": torch.ones(3)}
    targets = Targets({"a": 1.0})
    save(tmp_path / "reference", 2.0, gradient, targets)
    cases = {
        "same": (2.0, gradient, targets, True),
        "loss": (2.0001, gradient, targets, False),
        "gradient": (2.0, {"w": torch.tensor([1.0, 1.0, 1.001])}, targets, False),
        "tensors": (2.0, gradient | {"v": torch.ones(1)}, targets, False),
        "targets": (2.0, gradient, Targets({"a": 2.0}), False),
    }
    for name, (loss, grads, learned, passes) in cases.items():
        save(tmp_path / name, loss, grads, learned)
        assert compare(tmp_path / name, tmp_path / "reference")["passes"] is passes, name


def test_an_arm_that_fails_the_gate_has_no_ratio():
    def measured(seconds):
        one = rounds.Measured()
        one.peak, one.before = 10, 4
        for _ in range(3):
            one.add({"seconds": [seconds] * 2, "cpu": 1.0, "losses": [1.0], "parts": []})
        return one

    arms = {"0/dress": measured(1.0), "0/TRL tuned": measured(4.0), "0/plain HF padded": measured(5.0)}
    gates = {"TRL tuned": {"passes": True}, "plain HF padded": {"passes": False}}
    table = results.figures(arms, [["dress", "TRL tuned", "plain HF padded"]], TOY, SMOLLM2_135M, True, 1, 1e12, gates)
    assert table["TRL tuned"]["slower"]["ratio"] == 4.0
    assert "slower" not in table["plain HF padded"] and table["dress"]["activations"] == 6
    rows = {"a tuple at once": {"activations": 24}, "a row at a time": {"activations": 8}}
    reached = results.targets(table, TOY, rows)
    assert reached["activations ÷ TRL tuned's, a tuple at once (at most)"]["reached"]
    assert not reached["activations ÷ TRL tuned's, a row at a time (at most)"]["reached"]
    assert reached["times TRL tuned"]["reached"] and not reached["times plain HF padded"]["reached"]
    assert reached["times plain HF padded"]["value"] is None


def test_a_slow_arm_runs_fewer_steps_of_a_round():
    took = {"fast": 1.0, "slow": 10.0}
    assert rounds.share_out(took, 4, 100) == {"fast": 4, "slow": 4}
    assert rounds.share_out(took, 4, 25) == {"fast": 4, "slow": 2}
    assert rounds.share_out(took, 4, 12) == {"fast": 2, "slow": 1}
    assert rounds.share_out(took, 4, 1) == {"fast": 1, "slow": 1}


def test_trees_and_forests_of_mixed_records_are_made_fast():
    """5,000 tuples per second and core when the machine is quiet; a busy one gets a margin."""
    figures = packing.measure(count=128, rounds=5)
    assert figures["tuples_per_second"] > 2000
    assert figures["fill"] >= 0.97
    assert figures["tokens"] > 1.5


OURS = ["dress", "dress, sharing off"]


@pytest.mark.slow
@pytest.mark.parametrize("arms", [OURS, [*OURS, "plain HF padded"]], ids=len)
def test_a_whole_run_on_a_toy(arms, tmp_path, monkeypatch):
    page = (ROOT / "docs/performance.md").read_text().splitlines()
    [command] = [line.split() for line in page if line.startswith("python benchmarks/train_step.py")]
    assert command[1:] == ["benchmarks/train_step.py", "--smoke", "--out", "bench"]
    process = subprocess.run(
        [sys.executable, *command[1:-1], str(tmp_path), "--arms", *arms],
        cwd=ROOT, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    figures = json.loads((tmp_path / "train_step.json").read_text())
    assert figures["gate"].keys() >= set(arms)
    assert all(one["passes"] and one["targets"] for one in figures["gate"].values())
    toy = figures["arms"]["toy"]
    assert all(toy[name]["slower"]["ratio"] > 0 for name in arms[1:])
    assert set(toy["dress"]["parts"]) == {"data", "forward pass", "backward pass", "clipping and optimiser"}
    assert sum(toy["dress"]["parts"].values()) == pytest.approx(toy["dress"]["step"], rel=0.5)
    assert figures["together"]["per_step"] == 4 and figures["together"]["slower"]["ratio"] > 0
    assert figures["split"]["dress"].keys() == figures["split"]["dress, sharing off"].keys()
    assert min(figures["split"]["dress"].values()) > 0
    assert all(one["supervised"] > 0 and one["activations"] > 0 for one in toy.values())
    assert all(rung["passes"] for rung in figures["ladder"].values())
    assert len(figures["sweep"]) == 2 and "plain" in figures["sweep"][0]
    assert len(figures["traces"]["losses"]["dress"]) == 3
    assert "plain HF padded" not in arms or figures["traces"]["passes"]
    assert "time ÷ ours" in (tmp_path / "train_step.md").read_text()
    assert (tmp_path / "train_step.svg").read_text().startswith("<svg")

    threads = torch.get_num_threads()
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))  # put back after the benchmark
    parts = [BENCH[1], "--smoke", "--out", str(tmp_path), "--parts", "packing", "--threads", str(threads)]
    monkeypatch.setattr("sys.argv", parts)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(parts[0], run_name="__main__")
    assert end.value.code == 0
    again = json.loads((tmp_path / "train_step.json").read_text())
    assert again["arms"] == figures["arms"] and again["packing"] != figures["packing"]
    assert again["commands"]["packing"].endswith(" ".join(parts[4:])) and "--parts" not in again["commands"]["arms"]
    (tmp_path / "train_step.json").write_text(json.dumps(again | {"precision": "fp8"}))
    with pytest.raises(ValueError, match="measure all parts or name another --out"):
        runpy.run_path(parts[0], run_name="__main__")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_cuda_the_gpu_run_says_so_and_stops(tmp_path):
    process = run_script(Path(BENCH[1]), "--gpu", "--out", str(tmp_path), cwd=ROOT)
    assert process.returncode != 0
    assert process.stderr.strip().splitlines()[-1].endswith("expected a CUDA device, found none; nothing was measured")
    assert not list(tmp_path.iterdir())
