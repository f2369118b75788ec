"""The table of methods: made of whole runs, with as many supervised tokens for each."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from conftest import ROOT, TINY
from scripts import run_script

sys.path.insert(0, str(ROOT / "benchmarks"))
from steps.methods_results import page, picture, short_table


@pytest.mark.slow  # six runs
def test_a_table_of_methods(tmp_path: Path) -> None:
    tiny = [*TINY, f"data.path={tmp_path / 'data'}", "trainer.devices=1"]
    methods = ["critique_only", "rounds_fcp"]
    command = [
        "--seeds",
        "0",
        "1",
        "--methods",
        *methods,
        "--own-steps",
        "--jobs",
        "2",
        "--out",
        str(tmp_path / "runs"),
        "--results",
        str(tmp_path),
    ]
    done = run_script(ROOT / "benchmarks/methods.py", *command, *tiny, cwd=tmp_path, timeout=500)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    results = json.loads((tmp_path / "methods.json").read_text())
    labels = [f"{name}/{condition}" for name in ("sft", "dress_full", *methods) for condition in ("none", "praise")]
    assert list(results["rows"]) == labels
    base = results["rows"]["dress_full/none"]
    assert all(figure["against_base"]["value"] in (0, None) for figure in base.values())
    assert base["first_rating"]["n"] == 2 * results["rows"]["sft/none"]["first_rating"]["n"] / 2 > 0
    for name in methods:
        for ours, theirs in zip(results["tokens"][name], results["tokens"]["dress_full"], strict=True):
            assert 0.3 < ours / theirs < 3  # steps are few here
    first, second = (tmp_path / "runs" / f"rounds_fcp-0{end}" for end in ("_to_collect2", ""))
    stages = [json.loads((one / "config.json").read_text())["curriculum"]["stages"] for one in (first, second)]
    assert stages[0]["dress"] == stages[1]["dress"] and not (first / "stages" / "dress2").exists()
    assert stages[0]["dress2"]["steps"] == stages[0]["dress"]["steps"], "not counted yet"
    written = (tmp_path / "methods.md").read_text()
    assert written.count("| rounds_fcp |") == 3 and (tmp_path / "methods.svg").read_text().startswith("<svg")
    again = run_script(ROOT / "benchmarks/methods.py", *command, *tiny, cwd=tmp_path, timeout=100)
    assert again.returncode == 0 and json.loads((tmp_path / "methods.json").read_text())["rows"] == results["rows"]
    other = run_script(
        ROOT / "benchmarks/methods.py", *command, *tiny, "phases.praise=Good.", cwd=tmp_path, timeout=100
    )
    assert other.returncode == 1 and "was made with other settings of phases: delete it" in other.stderr


def test_the_readme_shows_the_table_that_was_measured() -> None:
    results = json.loads((ROOT / "benchmarks/results/methods.json").read_text())
    assert short_table(results) in (ROOT / "README.md").read_text(encoding="utf-8")
    assert (ROOT / "benchmarks/results/methods.md").read_text(encoding="utf-8") == page(results)
    assert (ROOT / "benchmarks/results/methods.svg").read_text(encoding="utf-8") == picture(results)
