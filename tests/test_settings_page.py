"""What every setting is: docs/settings.md and --help, both made from the schema."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from scripts import run_script

from dress import config
from dress.config.attacks import AttackCommand
from dress.config.commands import AskCommand
from dress.config.describing import described
from dress.evaluation.suite import registered
from dress.run.preparing import TASKS
from dress.run.settings_page import page


def test_the_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == page(), (
        "make it again: python -m dress.run.settings_page > docs/settings.md"
    )


SUITES = [suite.settings for suite in registered().values()]
TASK_SETTINGS = [task for task, _ in TASKS.values()]


@pytest.mark.parametrize(
    "section", [config.Config, config.CollectCommand, AttackCommand, AskCommand, *SUITES, *TASK_SETTINGS]
)
def test_every_setting_says_what_it_is(section: type[config.Section]) -> None:
    rows = [row for row in described(section) if row.key != "task" and not row.key.startswith("mapping.")]
    assert [row.key for row in rows if not row.text or row.values in ("", "anything")] == []


def test_rows_hold_default_text_unit_and_range() -> None:
    rows = {row.key: row for row in described()}
    sections = {key[:place] for key in rows for place, sign in enumerate(key) if sign == "."}
    single = {
        key for key in config.valid_keys() if key not in sections and not key.startswith(("annotator.", "judge."))
    }
    assert single <= set(rows) and "annotator.budget" in rows
    lr, window = rows["curriculum.stages.NAME.lr"], rows["data.window"]
    assert (lr.default, lr.values) == (None, "number > 0")
    assert (window.default, window.text, window.values) == (
        "16", "shards that are shuffled together", "whole number > 0"
    )  # fmt: skip
    assert rows["data.max_tokens"].text == "longest dialogue, in tokens"
    assert rows["curriculum.stages.NAME.warmup"].values == "number ≥ 0 and ≤ 1"
    assert rows["trainer.precision"].values == "auto, 32-true, bf16-mixed, bf16-true"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["train", "seed=1"], ["data.window=16  shards that are shuffled together; whole number > 0"]),
        (
            ["collect"],
            [
                "turns=2  answers per dialogue; each after the first answers a refinement; whole number > 0",
                "  per_image=1  requests of an image; whole number > 0",
            ],
        ),
        (
            ["collect", "task=attack"],
            ["  attacker.temperature=0.9  null = the server's own; number ≥ 0 and ≤ 100 or null"],
        ),
        (["eval"], ["batch_size=256  prompts; whole number > 0"]),
        (["eval", "suite=interaction"], ["turns=3  answers per dialogue; whole number > 0"]),
        (
            ["prepare"],
            [
                "  per_shard=200  records of a shard; whole number > 0",
                "  samples=24  records on the page; whole number > 0",
            ],
        ),
        (["ask"], ["temperature=0.0  of answers; 0 = greedy; number ≥ 0"]),
    ],
)
def test_help_says_it_too(tmp_path: Path, typed: list[str], said: list[str]) -> None:
    command, *settings = typed
    done = run_script(ROOT / "src" / f"{command}.py", *settings, "--help", cwd=tmp_path)
    assert done.returncode == 0 and set(said) <= set(done.stdout.splitlines()), done.stderr


def test_the_files_of_tasks_hold_no_defaults() -> None:
    for name in TASKS:
        stated = yaml.safe_load((ROOT / "configs" / "task" / f"{name}.yaml").read_text())
        assert stated.keys() == {"defaults"} and stated["defaults"][0] == f"_{name}"
