"""Every command of docs/no_feedback.md, with a small LLaVA in the place of a large one and a judge on loopback."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from conftest import ROOT
from documented import commands, run
from families import checkpoint, picture
from llm_server import Behaviour, serving
from scripts import run_script

from dress.base.files import read_json

PAGE = "docs/no_feedback.md"
TYPED = commands(PAGE)
TRAIN = next(number for number, command in enumerate(TYPED) if command[1] == "src/train.py")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model, pictures, and the page's table with a row for each."""
    (tmp_path / "models").mkdir()
    checkpoint("llava", tmp_path / "models").rename(tmp_path / "models" / "llava-1.5-7b-hf")
    (tmp_path / "images").mkdir()
    (header, row) = re.search(r"^```\n(image,.*)\n(.*)\n```", (ROOT / PAGE).read_text(), flags=re.M).groups()  # type: ignore[union-attr]
    for number in range(10):
        picture(60, 50, seed=number).save(tmp_path / "images" / f"{number}.png")
    rows = (row.replace("0.png", f"{number}.png") for number in range(10))
    (tmp_path / "questions.csv").write_text("\n".join([header, *rows]))
    return tmp_path


def typed(command: list[str], folder: Path, address: str) -> list[str]:
    """The command as the shell has it, with our server in the place of the page's."""
    words = [re.sub(r"http://127\.0\.0\.1:\d+/v1", address, word).replace("$PWD", str(folder)) for word in command]
    answers = words[1] != "src/train.py" and any(word.startswith("responder=") for word in words)
    return [*words, "max_new_tokens=8"] if answers else words


@pytest.mark.slow
def test_it_is_asked_and_its_answers_are_judged(folder: Path) -> None:
    (asked,) = re.findall(r"^dress (ask .*)$", (ROOT / PAGE).read_text(), flags=re.M)
    words = [*shlex.split(asked.replace("picture.png", "images/0.png")), "max_new_tokens=8"]
    done = run_script(ROOT / "src" / "dress" / "__main__.py", *words, cwd=folder)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr
    with serving(Behaviour()) as address:
        said = [run(typed(command, folder, address), folder) for command in TYPED[:TRAIN]]
    assert "at most, with every dialogue going its full length" in said[1] and "shards: data/judged" in said[2]
    assert (folder / "data/look/inspect.html").exists() and "mean rating" in said[3]


@pytest.mark.documented
@pytest.mark.slow
def test_the_commands_run_to_a_folder_of_the_same_class(folder: Path) -> None:
    with serving(Behaviour()) as address:
        said = [run(typed(command, folder, address), folder) for command in TYPED]
    assert len(said) == len(TYPED) == 8
    assert "stage 1/2 dress" in said[TRAIN] and "phases.praise: " in said[TRAIN]
    assert "minus eval/before: 1 pairs" in said[-2]
    assert read_json(folder / "models/mine/config.json")["architectures"] == ["LlavaForConditionalGeneration"]
