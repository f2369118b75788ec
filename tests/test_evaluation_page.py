"""Every command of docs/evaluation.md runs, in its order, on small files of our own and a judge on loopback."""

from __future__ import annotations

import io
import json
import shlex
from pathlib import Path

import pytest
from conftest import ROOT
from documented import commands
from hydra import compose, initialize_config_dir
from llm_server import serving
from omegaconf import OmegaConf
from rich.console import Console
from suite_files import CAPTIONS, OBJECTS, answer, ask, label, lines
from test_judged_suites import Judge, a_run, vlsafe_answers, vlsafe_files  # noqa: F401

from dress.base.files import read_json
from dress.evaluation.command import evaluate
from dress.evaluation.suite import registered, store_defaults


@pytest.fixture
def folder(tmp_path: Path, a_run: Path) -> Path:  # noqa: F811
    """A folder with all files that the page names."""
    lines(tmp_path / "questions.jsonl", ask(0, "dog"), ask(1, "cat"))
    lines(tmp_path / "labels.jsonl", label("dog", "yes"), label("cat", "no"))
    lines(tmp_path / "answers.jsonl", answer(0, "dog", "Yes, score 7"), answer(1, "cat", "No, score 3"))
    lines(tmp_path / "reviews.jsonl", {"question_id": 1, "content": "8 6\nGood."})
    lines(tmp_path / "vqa.jsonl", {"question_id": 1, "image": "1.jpg", "question": "What colour?", "answer": "red"})
    lines(tmp_path / "vqa_answers.jsonl", {"question_id": 1, "text": "Red."})
    short, brief = "Generate a short caption of the image.", "Provide a brief description of the given image."
    captions = [{**row, "prompt": prompt} for row in CAPTIONS for prompt in (short, brief)]
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    (tmp_path / "better.json").write_text(json.dumps([{"image_id": n, "caption": "A dog."} for n in (1, 2)]))
    (tmp_path / "objects.json").write_text(json.dumps(OBJECTS))
    files = vlsafe_files(tmp_path)
    for setting, name in (("rows", "vlsafe"), ("seen", "trained"), ("benign", "benign")):
        Path(files[setting]).rename(tmp_path / f"{name}.jsonl")
    Path(vlsafe_answers(tmp_path / "..")).rename(tmp_path / "vlsafe_answers.jsonl")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "latest").symlink_to(a_run)
    return tmp_path


def test_the_commands_of_the_page_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    found = commands("docs/evaluation.md")
    named = {part.removeprefix("suite=") for command in found for part in command if part.startswith("suite=")}
    assert named | {"run", "compare"} == set(registered()) and len(found) == 12
    store_defaults()
    with serving(Judge()) as address, initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        for python, script, *typed in found:
            assert (python, script) == ("python", "src/eval.py")
            overrides = [part.replace("http://127.0.0.1:8000/v1", address) for part in typed]
            if "ckpt=logs/latest" in typed:
                overrides += ["records=2", "turns=1"]
            plain = OmegaConf.to_container(compose("eval", overrides), resolve=True, throw_on_missing=True)
            console = Console(file=io.StringIO(), width=120)
            evaluate(plain, console)
            text = console.file.getvalue()  # type: ignore[attr-defined]
            assert "failures" in text or "report: " in text, shlex.join(typed)
    scores = read_json(folder / "eval" / "llava" / "suite.json")
    assert (scores["score"], scores["failures"]) == (50, 0)
    assert (folder / "eval" / "again" / "suite.json").read_bytes() == (folder / "eval/llava/suite.json").read_bytes()
    better = read_json(folder / "eval" / "better" / "suite.json")
    assert better["comparison"]["differences"]["chair_i"]["value"] == -2 / 5
    paper = read_json(folder / "eval" / "paper" / "suite.json")
    assert paper["tables"]["harmlessness"]["mine"]["VLSafe/safety"] is not None
    assert "mine" in (folder / "eval" / "paper" / "paper.html").read_text()
