"""Every command of docs/objectives.md."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT
from documented import commands, run_all

from dress.config.objectives import Objectives
from dress.phases import PHASES

PAGE = "docs/objectives.md"


@pytest.mark.documented
@pytest.mark.slow  # whole runs
def test_the_commands_run(tmp_path: Path) -> None:
    typed = commands(PAGE)
    assert len(typed) == 3
    run_all(typed, tmp_path)
    assert len(list((tmp_path / "logs").glob("*/*/metrics.json"))) == 3


def test_the_table_names_every_objective_with_its_phases() -> None:
    rows = [
        line.split("|")[1:3]
        for line in (ROOT / PAGE).read_text().splitlines()
        if line.startswith("| `") and line.count("|") == 5
    ]
    table = {name.strip(" `"): {one.strip(" `") for one in phases.split(",")} for name, phases in rows}
    assert table.keys() == {"lm", "words", *Objectives.model_fields}
    for name in Objectives.model_fields:
        assert table[name] == {phase for phase, one in PHASES.items() if name in one.objectives and name != "lm"}
