"""The code of docs/extending.md does what the page says, outside of the package."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT
from documented import SMALL, commands
from scripts import run_script
from test_command_line import environment

PAGE = "docs/extending.md"


def call(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """A documented command, small, as somebody types it in their own folder."""
    _, script, *arguments = command
    small = [*SMALL, "trainer.devices=1"] if script == "src/train.py" else []
    more = [text for text in small if text.partition("=")[0] not in {a.partition("=")[0] for a in arguments}]
    return run_script(ROOT / script, *arguments, *more, cwd=cwd, env=environment())


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's module, where its first command has run."""
    cwd = tmp_path_factory.mktemp("mine")
    (code,) = re.findall(r"```python\n# my_parts\.py\n(.*?)```", (ROOT / PAGE).read_text(), flags=re.S)
    (cwd / "my_parts.py").write_text(code)
    done = call(commands(PAGE)[0], cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return cwd


def test_a_projector_a_callback_and_a_logger_of_ones_own_are_used(mine: Path) -> None:
    run = mine / "logs" / "latest"
    settings = json.loads((run / "config.json").read_text())
    assert settings["model"]["projector"] == {"_target_": "my_parts.Gated", "bias": False}
    assert len((mine / "norms.txt").read_text().splitlines()) == 2, "two stages"
    points = [json.loads(line) for line in (run / "sft.jsonl").read_text().splitlines()]
    assert [point["curriculum/step"] for point in points] == [3, 4]
    assert (run / "csv" / "sft" / "metrics.csv").exists(), "beside the default logger"


def test_a_run_with_ones_own_classes_is_evaluated_with_consent_only(mine: Path) -> None:
    *_, evaluate = commands(PAGE)
    assert evaluate[-1] == "trust_targets=[my_parts]"
    refused = call(evaluate[:-1], mine)
    assert refused.returncode == 1 and "say trust_targets=[my_parts]" in refused.stderr
    done = call(evaluate, mine)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("command", commands(PAGE)[1:4], ids=shlex.join)
@pytest.mark.slow
def test_other_optimizers_and_schedules_train(mine: Path, command: list[str]) -> None:
    done = call(command, mine)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_search_runs_every_combination_and_ends_with_a_table(mine: Path) -> None:
    (search,) = [command for command in commands(PAGE) if "hparams_search=lr" in command]
    done = call(search, mine)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = (mine / "logs" / "sweeps").rglob("runs.json")
    rates = [f"lr={rate}" for rate in (0.0005, 0.001, 0.002)]
    assert list(json.loads(file.read_text())) == rates
