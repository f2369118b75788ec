"""Every command of docs/chat.md runs, in its order: servers until somebody has said something, training to its end."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import httpx2
import pytest
from conftest import png
from documented import ROOT, commands, run, short

from dress.data.shards import Shards, write_shards
from dress.worlds.shapes import generate as shapes

PAGE = "docs/chat.md"
pytestmark = [pytest.mark.slow, pytest.mark.documented]


def serve(command: list[str], cwd: Path) -> str:
    """Start a documented server on any port, use it as its page would, and end it; returns what it printed first."""
    script, *words = short(command)
    words = [word for word in words if not word.startswith("port=")]
    process = subprocess.Popen(
        [sys.executable, script, *words, "port=0"], cwd=cwd, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    line = next(line for line in iter(process.stdout.readline, "") if "http://127.0.0.1:" in line)
    (address,) = re.findall(r"http://127\.0\.0\.1:\d+\S*", line)
    if "key=" in address:
        say_something(address, queue=any(word.startswith("queue=") for word in words))
    else:
        assert httpx2.get(f"{address.rstrip(',')}/models").json()["data"]
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130, shlex.join(command)
    return line


def say_something(address: str, queue: bool) -> None:
    with httpx2.Client(base_url=address.partition("/?")[0], follow_redirects=True, timeout=60) as client:
        client.get(f"/?{address.partition('/?')[2]}").raise_for_status()
        if queue:
            (answer, *_) = client.get("/queue/next", params={"who": "Ann"}).json()["answers"]
            job = answer.get("job")
        else:
            picture = client.post("/pictures", content=png()).json()["picture"]
            job, answer = uuid.uuid4().hex, {}
            body = {"id": job, "conversation": job, "who": "Ann", "side": 0, "question": "What?", "picture": picture}
            client.post("/ask", content=json.dumps(body)).raise_for_status()
        if job:
            events = client.get(f"/answers/{job}/events").text
            answer = json.loads(events.split("event: end\ndata: ")[1])
        word = {
            "id": uuid.uuid4().hex, "who": "Ann", "kind": "feedback", "answer": answer["answer"], "rating": 2,
            "criterion": "honesty", "critique": "No.", "refinement": "Name it.",
        }  # fmt: skip
        client.post("/feedback", content=json.dumps(word)).raise_for_status()


def test_the_commands_of_the_page_run(tmp_path: Path) -> None:
    run(["python", "src/train.py", "experiment=dress_full"], tmp_path)
    run(["python", "src/collect.py", "responder=logs/latest", "records=2", "out=data/feedback"], tmp_path)
    write_shards(tmp_path / "data" / "own" / "eval", shapes.samples("eval", 3, seed=0))
    lines = commands(PAGE)
    assert [Path(line[1]).name for line in lines] == ["chat.py", "chat.py", "chat.py", "train.py", "serve.py"]
    for command in lines:
        if command[1] == "src/train.py":
            run([*command, "curriculum.without=[align,sft]"], tmp_path)
        else:
            serve(command, tmp_path)
    for name in ("said", "rated"):
        ratings = [turn.rating for record, _ in Shards(tmp_path / "data" / name) for turn in record.dialogues[0].turns]
        assert 2 in ratings


def test_the_page_is_short() -> None:
    lines = (ROOT / PAGE).read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
