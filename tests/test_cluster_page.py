"""The commands of docs/cluster.md: on one machine as they stand, torchrun's with two processes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from documented import SMALL, commands, run_all

PAGE = ROOT / "docs" / "cluster.md"


@pytest.mark.slow  # whole runs
def test_the_commands_of_one_machine_run(tmp_path: Path) -> None:
    said = run_all(commands("docs/cluster.md"), tmp_path)
    assert all("2 processes share each step" in text for text in said[-1:])


@pytest.mark.slow
def test_torchrun_runs_and_the_same_command_finds_it_finished(tmp_path: Path) -> None:
    (line,) = re.findall(r"^torchrun (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.M)
    words = line.replace("=8", "=2").replace("src/train.py", str(ROOT / "src" / "train.py")).split()
    command = [sys.executable, "-m", "torch.distributed.run", *words, "trainer.accelerator=cpu", *SMALL]
    one, two = (subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300) for _ in range(2))
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    assert (tmp_path / "runs/first/metrics.json").exists() and "is finished" in two.stdout


def test_the_job_is_a_script_that_bash_reads() -> None:
    (script,) = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.M | re.DOTALL)
    checked = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert not checked.returncode, checked.stderr
