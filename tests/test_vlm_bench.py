"""The benchmark of training steps on vision-language models of transformers: sizes of its pictures, and a toy run."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from steps import rounds, vlm, vlm_bench, vlm_results
from steps.flops import Sizes
from steps.tuples import Shape

UNSHARED = "dress, sharing off"


@pytest.mark.parametrize(
    "family, image, tree, rows",
    [
        ("llava", [576], [1605], [3468]),
        ("smolvlm", [832], [1888], [4600]),
        ("qwen2_5_vl", [391, 2300], [1422, 3331], [2736, 10372]),
    ],
)
def test_pictures_have_the_tokens_of_real_checkpoints(family, image, tree, rows, tmp_path):
    case = vlm_bench.SMALL[family]
    folder = vlm.write(tmp_path, family, Sizes(1, 64, 8, 4, 2, 49152), vlm.Tower(32, 8, 1, 2))
    counted = [vlm_bench.tokens(folder, vlm.shape(picture, Shape())) for picture in case.pictures]
    assert [one["image"] for one in counted] == image
    assert [one["tree"] for one in counted] == tree
    assert [one["rows"] for one in counted] == rows
    assert all(one["padded"] > one["rows"] > 1.8 * one["tree"] for one in counted)


def test_an_arm_that_fails_the_gate_has_no_ratio(tmp_path):
    def measured(seconds):
        one = rounds.Measured(peak=10, before=4)
        for _ in range(3):
            one.add({"seconds": [seconds], "cpu": 1.0, "losses": [1.0], "parts": []})
        return one

    arms = {"0/dress": measured(1.0), "0/TRL tuned": measured(4.0), "1/dress": measured(2.0), "1/other": measured(6.0)}
    gates = {"dress": {"passes": True}, "TRL tuned": {"passes": True}, "other": {"passes": False}}
    table = vlm_results.figures(arms, "dress", ["TRL tuned", "other"], gates)
    assert table["TRL tuned"]["slower"]["ratio"] == 4.0 and "slower" not in table["other"]
    gates["dress"]["passes"] = False
    assert not any(
        "slower" in one for one in vlm_results.figures(arms, "dress", ["TRL tuned", "other"], gates).values()
    )


def smoke(out: Path, *more: str) -> dict[str, dict]:
    command = [sys.executable, "benchmarks/train_step.py", "--smoke", "--out", str(out), "--model", *more]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    return json.loads((out / "vlm_step.json").read_text())["cases"]


@pytest.mark.slow
def test_a_run_on_a_toy(tmp_path):
    [case] = smoke(tmp_path, "qwen2_5_vl", "--arms", UNSHARED).values()
    assert set(case["gate"]) == {"dress", UNSHARED, "plain HF padded"}
    assert all(one["passes"] and one["targets"] and one["tensors"] for one in case["gate"].values())
    assert case["arms"][UNSHARED]["slower"]["ratio"] > 0 and case["arms"]["dress"]["peak"] > 0
    page = (tmp_path / "vlm_step.md").read_text()
    assert "time ÷ ours" in page and "--model qwen2_5_vl" in page

    file = tmp_path / "vlm_step.json"
    file.write_text(file.read_text().replace('"fp32"', '"fp8"'))
    with pytest.raises(ValueError, match="name another --out"):
        vlm_results.opened(file, {"machine": json.loads(file.read_text())["machine"], "precision": "fp32"})


@pytest.mark.slow
@pytest.mark.parametrize("trained", vlm.PARTS)
def test_a_run_with_all_arms_on_a_toy(trained, tmp_path):
    cases = smoke(tmp_path, *vlm_bench.SMALL, "--trained", trained)
    assert len(cases) == 3
    arms = {"dress", *(one for one in vlm_bench.OTHERS if one != "TRL tuned" or importlib.util.find_spec("trl"))}
    for case in cases.values():
        assert set(case["arms"]) == arms and all(one["passes"] for one in case["gate"].values())
