"""The commands that README.md and docs/ name, made a matter of seconds, and what they print."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from scripts import run_script

from dress import config

ROOT = Path(__file__).resolve().parents[1]
PUBLIC = Path(os.environ.get("DRESS_PUBLIC_DATA", ROOT.parent / "shared" / "data"))
SMALL = [
    "debug=fast_dev_run",
    "model.vision.vit={image_size: 48, patch_size: 16, width: 32, layers: 1, heads: 2}",
    "model.language.config.hidden_size=32",
    "model.language.config.intermediate_size=48",
    "model.language.config.num_hidden_layers=2",
]


def commands(page: str = "README.md") -> list[list[str]]:
    """The `python src/…` lines of a page's code blocks, without comments."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = [code for kind, code in re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.DOTALL | re.M) if not kind]
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    return [line for line in lines if line[:1] == ["python"]]


def experiment(page: str, folder: Path, *overrides: str) -> config.Config:
    """The settings of the experiment that a page shows as a file, written into a copy of `configs` below a folder."""
    (text,) = re.findall(r"^```yaml\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.M)
    shutil.copytree(ROOT / "configs", folder / "configs")
    (folder / "configs" / "experiment" / "mine.yaml").write_text(text)
    with initialize_config_dir(str(folder / "configs"), version_base="1.3"):
        plain = compose("train", overrides=["run_dir=x", "experiment=mine", *overrides])
    return config.check(OmegaConf.to_container(plain, resolve=True))


def short(command: list[str]) -> list[str]:
    """Script and arguments of a documented command, training made a matter of seconds."""
    python, script, *arguments = command
    assert python == "python"
    changing = {"show=config", "resume=logs/latest"} & set(arguments)
    small = SMALL[:1] if "model=hf" in arguments else SMALL
    more = small if script == "src/train.py" and not changing else []
    if more and not any(word.startswith("trainer.devices=") for word in arguments):
        more = [*more, "trainer.devices=1"]  # tests run side by side already
    arguments = [a.replace("../shared/data", str(PUBLIC)) for a in arguments if a != "debug=fast_dev_run"]
    return [str(ROOT / script), *arguments, *more]


def run(command: list[str], cwd: Path) -> str:
    """What the command prints, run as a process of its own.

    Raises:
        AssertionError: it failed; holds the end of what it said.
    """
    script, *arguments = short(command)
    began = time.monotonic()
    done = run_script(
        Path(script), *arguments, cwd=cwd, env=os.environ | {"WANDB_MODE": "offline", "WANDB_SILENT": "1"}
    )
    print(f"{time.monotonic() - began:6.1f} s  {shlex.join(command)}")
    time.sleep(max(0.0, began + 1.1 - time.monotonic()))  # runs of one second would share a folder's name
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def run_all(typed: Sequence[list[str]], cwd: Path) -> list[str]:
    """What each of these commands prints; the first that fails ends it."""
    return [run(command, cwd) for command in typed]
