"""Every command of docs/feedback.md, against a server of ours in the place of the page's."""

from __future__ import annotations

import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from conftest import ROOT, tiny_settings
from documented import commands
from documented import run as run_command
from llm_server import Behaviour, serving

from dress.base.files import read_lines, write_json, write_lines
from dress.data.shards import Shards, write_shards
from dress.feedback.answer_key import answer_key
from dress.record import Dialogue, Turn
from dress.worlds.shapes import generate as shapes

KEY = "canary-9f8e7d6c5b4a"
FOUND = commands("docs/feedback.md")


def on_loopback(command: list[str], url: str) -> list[str]:
    """The command with our server in the place of every other."""
    texts = [re.sub(r"http://127\.0\.0\.1:\d+/v1", url, text) for text in command[1:]]
    ours = any(text.startswith(("annotator.base_url", "annotator=replay", "annotator=human")) for text in texts)
    return texts if ours else [*texts, f"annotator.base_url={url}"]


def words_of(who: str, prompts: Shards) -> list[dict[str, object]]:
    """What a person said of an answer to every question."""
    said = {"at": "2026-11-30T10:00:00Z", "who": who, "kind": "feedback", "rating": 3}
    return [
        said | {
            "id": f"{record.key}-{number}", "criterion": dialogue.criterion or "honesty",
            "answer": answer_key(image, Dialogue(turns=[Turn(user=dialogue.turns[0].user, assistant="A red circle.")])),
        }
        for record, image in prompts for number, dialogue in enumerate(record.dialogues)
    ]  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """An empty folder with the user's data and answers, and the user's key in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    write_shards(tmp_path / "data/mine/prompts", shapes.samples("prompts", 6, seed=0))
    rows = [
        {"key": record.key, "question": dialogue.turns[0].user, "answer": "A red circle."}
        for record, _ in Shards(tmp_path / "data/mine/prompts")
        for dialogue in record.dialogues
    ]
    write_lines(tmp_path / "answers.jsonl", rows)
    write_lines(tmp_path / "data/chat/feedback.jsonl", words_of("Ana", Shards(tmp_path / "data/mine/prompts")))
    write_json(tmp_path / "logs/latest/config.json", tiny_settings(tmp_path).model_dump())
    return tmp_path


def test_the_commands_that_collect(place, monkeypatch, capsys):
    collecting = [command for command in FOUND if command[1] == "src/collect.py"]
    assert len(collecting) == 9
    refusing = Behaviour(refuses=0.3)
    with serving(refusing) as url:
        for command in collecting:
            if "annotator.retry_failed=true" in command:
                assert read_lines(place / "data/judged_file/failures.jsonl")
                refusing.refuses = 0.0
            script, *arguments = on_loopback(command, url)
            if "responder=logs/latest" in arguments and "dry_run=true" not in arguments:
                arguments.append("dry_run=true")  # a model in memory: tests/test_annotate.py
            monkeypatch.setattr(sys, "argv", [script, *arguments])
            runpy.run_path(str(ROOT / script), run_name="__main__")
    told = capsys.readouterr().out
    assert told.count("at most, with every dialogue going its full length") == 2
    assert not (place / "data/judged_file/failures.jsonl").exists()
    assert len(Shards(place / "data/judged_local")) == 5
    assert len(Shards(place / "data/judged_again")) == len(Shards(place / "data/judged_file"))
    people = [t.feedback for r, _ in Shards(place / "data/by_people") for d in r.dialogues for t in d.turns]
    assert {(one.annotator, one.rating, one.extra["who"]) for [one] in people} == {("human", 3, "Ana")}
    rated = {t.rating for r, _ in Shards(place / "data/replayed") for d in r.dialogues for t in d.turns}
    assert rated == {1, 2, 3, 4}
    assert max(len(dialogue.turns) for r, _ in Shards(place / "data/judged_server") for dialogue in r.dialogues) == 2
    assert not [f for f in place.rglob("*") if f.is_file() and KEY.encode() in f.read_bytes()] and KEY not in told


def test_the_call_from_a_notebook(place, capsys):
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs/feedback.md").read_text(), re.S)
    with serving(Behaviour()) as url:
        names = {}
        exec(re.sub(r"http://127\.0\.0\.1:\d+/v1", url, code), names)
    feedback = [t.feedback[0] for r, _ in Shards(names["folder"]) for d in r.dialogues for t in d.turns]
    assert len(feedback) > 5 and {(one.annotator, one.rating is None) for one in feedback} == {("judge", False)}
    assert "shards: data/judged_notebook" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_that_trains(place):
    shutil.rmtree(place / "logs")  # a run makes its own
    [command] = [command for command in FOUND if command[1] == "src/train.py"]
    with serving(Behaviour()) as url:
        run_command(["python", *on_loopback(command, url)], place)
        ended = place / "logs" / "latest"
    turns = [t for r, _ in Shards(ended / "stages/collect/shards") for d in r.dialogues for t in d.turns]
    assert {feedback.annotator for turn in turns for feedback in turn.feedback} == {"gpt-4o-mini"}
    assert not [f for f in place.rglob("*") if f.is_file() and KEY.encode() in f.read_bytes()]


def test_every_command_is_tried():
    assert [command[1] for command in FOUND].count("src/train.py") == 1 and len(FOUND) == 10
