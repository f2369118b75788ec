"""Every command of docs/only_evaluate.md, with a small LLaVA, files of a few rows, and a judge on loopback."""

from __future__ import annotations

import io
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from documented import commands
from families import checkpoint, picture
from hydra import compose, initialize_config_dir
from llm_server import serving
from omegaconf import OmegaConf
from rich.console import Console
from suite_files import lines
from test_judged_suites import Judge

from dress.base.files import read_json
from dress.evaluation.command import evaluate
from dress.evaluation.suite import registered, store_defaults

PAGE = ROOT / "docs" / "only_evaluate.md"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that the page names; its labels and questions are the rows that the page shows."""
    shown = re.findall(r"^(\{.*\})$", PAGE.read_text(encoding="utf-8"), flags=re.M)
    label, asked = map(json.loads, shown)
    (tmp_path / "models").mkdir()
    checkpoint("llava", tmp_path / "models").rename(tmp_path / "models" / "llava-1.5-7b-hf")
    (tmp_path / "models" / "other").symlink_to("llava-1.5-7b-hf")
    (tmp_path / "images").mkdir()
    for number in range(3):
        picture(60, 50, seed=number).save(tmp_path / "images" / f"{number}.png")
    other = {"image": "1.png", "question_id": 2}
    lines(tmp_path / "labels.jsonl", label, label | other | {"label": "no"})
    lines(tmp_path / "vqa.jsonl", asked, asked | other)
    lines(tmp_path / "answers.jsonl", {"question_id": 1, "text": "Red."}, {"question_id": 2, "text": "Blue."})
    lines(tmp_path / "questions.jsonl", {"question_id": 1, "image": "0.png", "text": "Why?", "category": "complex"})
    prompt = "Provide a brief description of the given image."
    captions = [{"image_id": f"{n}.png", "prompt": prompt, "caption": "A dog."} for n in range(3)]
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    (tmp_path / "objects.json").write_text(json.dumps({f"{n}.png": ["dog"] for n in range(3)}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_commands_run(folder: Path) -> None:
    typed = commands("docs/only_evaluate.md")
    assert len(typed) == 8 and {command[1] for command in typed} == {"src/eval.py"}
    store_defaults()
    with serving(Judge()) as address, initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        for _, _, *words in typed:
            overrides = [re.sub(r"http://127\.0\.0\.1:\d+/v1", address, word) for word in words]
            if any(word.startswith("responder=models/") for word in words):
                overrides.append("max_new_tokens=8")
            settings: Any = OmegaConf.to_container(compose("eval", overrides), resolve=True, throw_on_missing=True)
            console = Console(file=io.StringIO(), width=120)
            evaluate(settings, console)
            assert "failures" in console.file.getvalue(), shlex.join(words)  # type: ignore[attr-defined]
    figures = {file.parent.name: read_json(file) for file in folder.glob("eval/*/suite.json")}
    assert figures["pope"]["n"] == figures["vqa"]["n"] == 2 and figures["vqa_of_file"]["accuracy"] == 0.5
    assert figures["chair"]["chair_i"] == 0 and figures["captioning"]["failures"] == 0
    assert figures["again"]["score"] == figures["llava"]["score"]
    assert figures["other"]["comparison"]["differences"]["accuracy"]["value"] == 0


@pytest.mark.slow
def test_the_lines_of_python_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)
    names: dict[str, Any] = {}
    exec(code.replace('"out=', '"max_new_tokens=8", "out='), names)
    assert names["figures"]["n"] == 2 and names["figures"] == read_json(folder / "eval/python/suite.json")


def test_every_suite_stands_in_the_table() -> None:
    rows = re.findall(r"^\| (`[^|]+) \|", PAGE.read_text(encoding="utf-8").partition("## What is asked")[2], flags=re.M)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert registered().keys() - {"run"} <= named
