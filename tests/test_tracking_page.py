"""Every training command of docs/tracking.md; the others run in `test_loggers.py`, on a run that is there."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import composed
from documented import commands, run_all

PAGE = "docs/tracking.md"


@pytest.mark.documented
@pytest.mark.slow  # four whole runs
def test_the_commands_run(tmp_path: Path) -> None:
    typed = commands(PAGE)
    assert len(typed) == 4
    run_all(typed, tmp_path)
    assert (tmp_path / "mlflow.db").exists()
    assert list(tmp_path.glob("logs/*/*/wandb/offline-run-*")) and list(tmp_path.glob("logs/*/*/csv/rounds.csv"))


def test_the_loggers_of_the_page_are_those_that_there_are() -> None:
    names = {name for _, _, *words in commands(PAGE) for name in composed(*words).logger}
    assert names == {"csv", "tensorboard", "wandb", "mlflow"}
