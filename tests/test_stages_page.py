"""Every command and the file of docs/stages.md."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from conftest import TINY, tiny_settings
from documented import commands, experiment, run_all
from rich.console import Console

from dress.base.files import read_json
from dress.train.curriculum import Curriculum

PAGE = "docs/stages.md"


@pytest.mark.documented
@pytest.mark.slow  # eight whole runs
def test_the_commands_run(tmp_path: Path) -> None:
    made = tmp_path / "made"
    Curriculum(tiny_settings(made, "curriculum.run=collect"), Console(quiet=True)).run()
    given = str(made / "run" / "stages" / "collect" / "shards")
    typed = [[part.replace("/path/to/feedback", given) for part in command] for command in commands(PAGE)]
    assert len(typed) == 8
    run_all(typed, tmp_path)
    labels = [
        sorted(set(read_json(file, dict)) - {"conditions"}) for file in (tmp_path / "logs").glob("*/*/metrics.json")
    ]
    for expected in (["dress", "sft"], ["dress", "dress2", "sft"], ["again", "dress"], []):
        assert expected in labels, shlex.join(map(str, labels))


def test_the_file_of_an_experiment_composes(tmp_path: Path) -> None:
    settings = experiment(PAGE, tmp_path, *TINY)
    assert settings.curriculum.order == ["align", "sft", "collect", "dress", "collect2", "dress2", "eval"]
    assert settings.curriculum.stages["dress2"].steps == 4
