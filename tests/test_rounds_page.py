"""Every command of docs/rounds.md, and the stages that it shows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, composed
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


def test_what_was_tried_can_be_typed() -> None:
    (block,) = re.findall(r"```text\n(.*?)```", (ROOT / PAGE).read_text(), re.DOTALL)
    typed: dict[str, list[str]] = {}
    for line in block.splitlines():
        number, words = line.split(": ", 1)
        first, *rest = shlex.split(words)
        typed[number] = [*typed[rest.pop(0)], *rest] if first == "as" else [first, *rest]
    settings = [composed(*words) for words in typed.values()]
    assert len(settings) == 20
    phases = {name: stage.phases for name, stage in settings[-1].curriculum.stages.items() if "dress" in name}
    assert set(map(len, phases.values())) == {4} and len(phases) == 3
