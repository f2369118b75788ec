"""Every command of docs/evaluation.md runs, in its order, on small files of our own and a judge on loopback."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from conftest import ROOT
from llm_server import serving
from test_judged_suites import Judge, a_run, vlsafe_answers, vlsafe_files  # noqa: F401
from test_readme import commands, run
from test_suites import CAPTIONS, OBJECTS, answer, ask, label, lines

from dress.evaluation.suites.settings import SUITES
from dress.files import read_json


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


def test_the_commands_of_the_page_run(folder: Path) -> None:
    found = commands("docs/evaluation.md")
    named = {part.removeprefix("suite=") for command in found for part in command if part.startswith("suite=")}
    assert named == set(SUITES) and len(found) == 12
    with serving(Judge()) as address:
        outputs = {}
        for command in found:
            command = [part.replace("http://127.0.0.1:8000/v1", address) for part in command]
            more = ["records=2", "turns=1", "judge=oracle"] if "ckpt=logs/latest" in command else []
            outputs[shlex.join(command)] = run([*command, *more], folder)
    assert all("failures" in text or "report: " in text for text in outputs.values())
    scores = read_json(folder / "eval" / "llava" / "suite.json")
    assert (scores["score"], scores["failures"]) == (50, 0)
    assert (folder / "eval" / "again" / "suite.json").read_bytes() == (folder / "eval/llava/suite.json").read_bytes()
    better = read_json(folder / "eval" / "better" / "suite.json")
    assert better["comparison"]["differences"]["chair_i"]["value"] == -2 / 5
    paper = read_json(folder / "eval" / "paper" / "suite.json")
    assert paper["tables"]["harmlessness"]["mine"]["VLSafe/safety"] is not None
    assert "mine" in (folder / "eval" / "paper" / "paper.html").read_text()
    assert (ROOT / "docs" / "evaluation.md").exists()
