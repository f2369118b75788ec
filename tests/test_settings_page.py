"""What every setting is: docs/settings.md and --help, both made from the schema."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT
from scripts import run_script

from dress import config
from dress.config.describing import described
from dress.run.settings_page import page


def test_the_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == page(), (
        "make it again: python -m dress.run.settings_page > docs/settings.md"
    )


@pytest.mark.parametrize("section", [config.Config, config.CollectCommand])
def test_every_setting_says_what_it_is(section: type[config.Section]) -> None:
    rows = list(described(section))
    assert [row.key for row in rows if not row.text or row.values in ("", "anything")] == []


def test_rows_hold_default_text_unit_and_range() -> None:
    rows = {row.key: row for row in described()}
    sections = {key.rpartition(".")[0] for key in rows}
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
    ("script", "said"),
    [
        ("train.py", "data.window=16  shards that are shuffled together; whole number > 0"),
        ("collect.py", "turns=2  answers per dialogue; each after the first answers a refinement; whole number > 0"),
    ],
)
def test_help_says_it_too(tmp_path: Path, script: str, said: str) -> None:
    done = run_script(ROOT / "src" / script, "--help", cwd=tmp_path)
    assert done.returncode == 0 and said in done.stdout, done.stderr
