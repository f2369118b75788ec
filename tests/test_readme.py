"""Every command of the README and of docs/ runs, in its order, in an empty folder, with `debug=fast_dev_run`."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

SMALL = [
    "debug=fast_dev_run",
    "model.vision.vit={image_size: 48, patch_size: 16, width: 32, layers: 1, heads: 2}",
    "model.language.config.hidden_size=32",
    "model.language.config.intermediate_size=48",
    "model.language.config.num_hidden_layers=2",
]
PUBLIC = Path(os.environ.get("DRESS_PUBLIC_DATA", ROOT.parent / "shared" / "data"))


def commands(page: str = "README.md") -> list[list[str]]:
    """The `python src/…` lines of a page's code blocks, without comments."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"```\n(.*?)```", text, flags=re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    return [line for line in lines if line[:1] == ["python"]]


def run(command: list[str], cwd: Path) -> str:
    python, script, *arguments = command
    assert python == "python"
    changing = {"show=config", "resume=logs/latest"} & set(arguments)
    more = SMALL if script == "src/train.py" and not changing else []
    arguments = [a.replace("../shared/data", str(PUBLIC)) for a in arguments if a != "debug=fast_dev_run"]
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *arguments, *more],
        cwd=cwd, capture_output=True, text=True, check=False, timeout=300, env=os.environ | {"WANDB_MODE": "offline"},
    )  # fmt: skip
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_the_commands_of_the_readme_run(tmp_path):
    ours = [command for command in commands() if "data/coco" not in " ".join(command)]
    assert len(ours) >= 10
    outputs = {shlex.join(command): run(command, tmp_path) for command in ours}
    assert (tmp_path / "logs" / "latest" / "report.html").exists()
    assert "is finished" in outputs["python src/train.py resume=logs/latest"]
    assert "Write a caption." in outputs["python src/train.py show=batch"]
    assert (tmp_path / "data" / "feedback" / "shard-000000.tar").exists()


@pytest.mark.public_data
def test_the_photo_commands_of_the_readme_run(tmp_path):
    if not PUBLIC.is_dir():
        pytest.skip(f"not run: no public data at {PUBLIC} (set DRESS_PUBLIC_DATA)")
    photos = [command for command in commands() if "data/coco" in " ".join(command)]
    assert [command[1] for command in photos] == ["src/prepare.py", "src/train.py"]
    for command in photos:
        run(command, tmp_path)
    assert "nobody should expect good captions" in (tmp_path / "logs" / "latest" / "report.html").read_text()
