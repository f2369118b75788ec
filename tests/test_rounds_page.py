"""Every command of docs/rounds.md, and the stages that it shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from documented import commands, run_all

PAGE = "docs/rounds.md"


@pytest.mark.documented
@pytest.mark.slow  # a whole run
def test_the_commands_run(tmp_path: Path) -> None:
    typed = commands(PAGE)
    assert len(typed) == 1
    run_all(typed, tmp_path)
    assert len(list((tmp_path / "logs").glob("*/*/metrics.json"))) == 1


def test_the_stages_that_the_page_shows_are_those_of_the_experiment() -> None:
    (shown,) = re.findall(r"```yaml\n(.*?)```", (ROOT / PAGE).read_text(), re.DOTALL)
    file = yaml.safe_load((ROOT / "configs/experiment/dress_unconditional.yaml").read_text())
    stages = file["curriculum"]["stages"]
    assert {name: stages[name] for name in yaml.safe_load(shown)} == yaml.safe_load(shown)
