"""Every command of docs/inspecting.md."""

from __future__ import annotations

import io
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from documented import PUBLIC, commands
from hydra import compose, initialize_config_dir
from imports import json_lines, photos
from llm_server import Behaviour, serving
from omegaconf import OmegaConf
from rich.console import Console
from scripts import run_script

from dress.base.files import read_lines
from dress.data.shards import Shards, write_shards
from dress.dialogue.tokenizer import save_tokenizer
from dress.feedback.answer_key import answer_key
from dress.record import up_to_answers
from dress.run.preparing import TASKS, task
from dress.worlds.shapes import generate as shapes


def run(command: list[str]) -> str:
    console = Console(record=True, width=200, file=io.StringIO())
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        composed = OmegaConf.to_container(compose("prepare", overrides=command[2:]), resolve=True)
    assert isinstance(composed, dict)
    settings, start = task({str(name): value for name, value in composed.items()})
    start(settings, console)
    return console.export_text()


def row(number: int) -> dict[str, Any]:
    turn = {"user": "How to break it?", "model": "No.", "rating": "2", "critique NLF": "Curt."}
    again = {"user": "Say why.", "model": "It would be a pity.", "rating": "4", "critique_NLF": "Safe."}
    return {"image_id": f"{number:012d}.jpg", "caption": "A bus.", "interaction": [turn, again]}


def test_the_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [row(number) for number in (2, 1, 2)]
    json_lines(tmp_path / "raw" / "LVLM_NLF" / "harmlessness_nlf.jsonl", rows)
    photos(tmp_path / "raw" / "train2017", "000000000001.jpg", "000000000002.jpg")
    write_shards(tmp_path / "data" / "mine", shapes.samples("sft", 4, seed=0))
    (tmp_path / "logs" / "latest").mkdir(parents=True)
    save_tokenizer(tokenizer, tmp_path / "logs" / "latest" / "tokenizer.json")
    found = commands("docs/inspecting.md")[:9]
    assert all(command[:2] == ["python", "src/prepare.py"] for command in found)
    ours = [command for command in found if not any("shared/data" in text for text in command)]
    assert len(ours) == len(found) - 1
    told = [run(command) for command in ours]
    assert "+2.00 ± 0.00" in told[1] and "0 of 3" in told[2]
    assert read_lines(tmp_path / "data" / "nlf_again" / "harmlessness_nlf.jsonl") == rows
    assert (tmp_path / "data" / "look" / "inspect.html").exists()
    assert "pretty_name: My feedback" in (tmp_path / "data" / "nlf_dataset" / "README.md").read_text()


def test_the_commands_about_annotators_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "canary")
    write_shards(tmp_path / "sft", shapes.samples("sft", 3, seed=0))
    collected = tmp_path / "logs/latest/stages/collect/shards"
    script(["python", "src/collect.py", "responder=sft", f"out={collected}", "annotator=oracle"], monkeypatch)
    answers = [
        (dialogue.criterion, answer_key(image, one))
        for record, image in Shards(collected) for dialogue in record.dialogues for one in up_to_answers(dialogue)
    ]  # fmt: skip
    said = {"at": "", "who": "Ana", "kind": "feedback", "rating": 2}
    lines = [{"id": str(n), "criterion": one, "answer": key, **said} for n, (one, key) in enumerate(answers)]
    json_lines(tmp_path / "data/chat/feedback.jsonl", lines)
    llm, judge, people, who = commands("docs/inspecting.md")[9:]
    with serving(Behaviour()) as url:
        script([*llm, f"annotator.base_url={url}"], monkeypatch)
    assert re.search(r"oracle → gpt-4o-mini +\d+", told := run(judge)) and "gpt-4o-mini against oracle" in told
    script(people, monkeypatch)
    assert re.search(rf"oracle → human/Ana +{len(answers)} ", run(who))
    page = (tmp_path / "data/who/inspect.html").read_text()
    assert "human/Ana · rated 2 of 4" in page and "gpt-4o-mini · rated " in page


def script(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A documented command, in this process."""
    monkeypatch.setattr(sys, "argv", command[1:])
    runpy.run_path(str(ROOT / command[1]), run_name="__main__")


@pytest.mark.public_data
@pytest.mark.skipif(not PUBLIC.is_dir(), reason=f"no public data at {PUBLIC} (set DRESS_PUBLIC_DATA)")
def test_the_command_on_public_files_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (command,) = (c for c in commands("docs/inspecting.md") if any("shared/data" in text for text in c))
    told = run([text.replace("../shared/data", str(PUBLIC)) for text in command])
    assert "83 of 700" in told and "85 of 700" in told  # the page says so


def test_page_and_help_name_every_setting_and_format(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "inspecting.md").read_text()
    help_text = run_script(ROOT / "src" / "prepare.py", "--help", cwd=tmp_path).stdout
    for name in ("inspect", "export"):
        for setting in TASKS[name][0].model_fields.keys() - {"task", "model"}:
            assert setting in help_text, (name, setting)
    for form in ("records", "lvlm_nlf", "llava", "messages", "dataset"):
        assert f"| `{form}` |" in page and form in help_text
