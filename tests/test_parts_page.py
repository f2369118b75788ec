"""Every command of docs/parts.md that needs no launcher; test_launchers.py has the others."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT
from documented import commands, run_all
from hydra import compose, initialize_config_dir
from imports import answers_to, llava_row, photos
from omegaconf import OmegaConf

from dress.base.files import write_lines
from dress.data.shards import Shards, write_shards
from dress.worlds.shapes import generate as shapes

PAGE = ROOT / "docs" / "parts.md"


@pytest.mark.documented
@pytest.mark.slow  # whole runs
def test_the_commands_of_the_page_run(tmp_path: Path) -> None:
    photos(tmp_path / "raw" / "train2017", *(f"{number:04d}.jpg" for number in range(30)))
    rows = [llava_row(number, 30) for number in range(30)]
    (tmp_path / "raw" / "llava").mkdir()
    (tmp_path / "raw" / "llava" / "rows.json").write_text(json.dumps(rows))
    samples = list(shapes.samples("prompts", 6, seed=0))
    write_shards(tmp_path / "data" / "prompts", samples, 3)
    write_lines(tmp_path / "answers.jsonl", answers_to(samples))
    typed = commands("docs/parts.md")
    assert len(typed) == 6
    run_all(typed, tmp_path)
    assert len(Shards(tmp_path / "data/llava/sft")) == len(Shards(tmp_path / "data/llava_features/sft")) == 26
    assert len(Shards(tmp_path / "data/answers")) == 6 and not (tmp_path / "multirun").exists()


def test_the_launchers_commands_compose_and_are_a_script_that_bash_reads() -> None:
    (script,) = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.M | re.DOTALL)
    assert not subprocess.run(["bash", "-n"], input=script, text=True).returncode
    (line,) = re.findall(r"^PARTS=.*$", script, flags=re.M)
    said = subprocess.run(["bash", "-c", f"{line}\necho $PARTS"], capture_output=True, text=True).stdout
    assert said.strip() == ",".join(f"{number}/64" for number in range(64))
    lines = [shlex.split(line) for line in script.replace("\\\n", " ").splitlines() if line.startswith("python")]
    launchers = {}
    for _, script_name, multirun, *words in lines:
        assert (script_name, multirun) == ("src/prepare.py", "-m")
        overrides = ["part=0/64" if word.startswith("part=") else word for word in words]
        with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
            composed = compose("prepare", overrides=overrides, return_hydra_config=True)
        OmegaConf.set_struct(composed, True)
        launchers[words[0].removeprefix("hydra/launcher=")] = composed.hydra.launcher
    assert set(launchers) == {"submitit_local", "submitit_slurm", "ray", "ray_cluster"}
    assert (launchers["submitit_slurm"].array_parallelism, launchers["submitit_slurm"].timeout_min) == (16, 240)
