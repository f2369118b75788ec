"""The table over a sweep's runs: what differs is shown, and means are over seeds only."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from dress.base.files import write_json
from dress.report.figures import runs_table
from dress.run.sweep_runs import seed_groups, sweep_runs


def metrics(value: float) -> dict:
    figures = {"helpfulness/mean_rating": {"value": value, "n": 5, "low": 1.0, "high": 4.0}}
    return {"sft": figures, "conditions": {"sft/none": figures}}


def sweep(folder: Path, *jobs: list[str]) -> str:
    """The printed table."""
    for number, typed in enumerate(jobs):
        write_json(folder / str(number) / "metrics.json", metrics(1.0 + number))
        (folder / str(number) / ".hydra").mkdir()
        (folder / str(number) / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(["scale=tiny", *typed]))
    runs = sweep_runs(folder)
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(runs_table({label: run["metrics"] for label, run in runs.items()}, seed_groups(runs)))
    return console.export_text()


@pytest.mark.parametrize("key", ["curriculum.stages.sft.lr", "+curriculum.stages.sft.lr", "seed"])
def test_what_differs_is_shown_in_full(tmp_path: Path, key: str) -> None:
    text = sweep(tmp_path, [f"{key}=0.001"], [f"{key}=0.0001"])
    short = key.rpartition(".")[2]
    assert f"{short}=0.001 " in text and f"{short}=0.0001 " in text and "…" not in text
    assert ("mean" in text.partition("rating")[2]) == (key == "seed"), "no mean over two learning rates"


def test_keys_of_one_last_word_are_told_apart(tmp_path: Path) -> None:
    first, second = (f"curriculum.stages.{stage}.lr" for stage in ("align", "sft"))
    assert "align.lr=1" in (text := sweep(tmp_path, [f"{first}=1", f"{second}=2"], [f"{first}=2", f"{second}=1"]))
    assert "sft.lr=2" in text


def test_means_are_over_the_seeds_of_each_setting(tmp_path: Path) -> None:
    jobs = [[f"curriculum.stages.sft.lr={rate}", f"seed={seed}"] for rate in ("0.1", "0.2") for seed in (0, 1)]
    text = sweep(tmp_path, *jobs)
    rows = [line.split() for line in text.splitlines() if " mean ± " in line]
    assert [row[0] for row in rows] == ["lr=0.1", "lr=0.2"]
    assert "1.50" in rows[0] and "3.50" in rows[1]
