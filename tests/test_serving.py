"""An exported model behind `transformers serve`, on loopback, answers what the run answers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from documented import commands, run
from scripts import free_port
from test_export_command import finished  # noqa: F401 - a fixture

import dress
from dress.data.shards import Shards

pytestmark = pytest.mark.slow


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="module")
def served(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:  # noqa: F811
    """The address of a server of the run's exported model, and its folder."""
    folder = (finished / "logs" / "latest" / "stages" / "export" / "model").resolve()
    port, cache = free_port(), tmp_path_factory.mktemp("hub")
    log = cache / "server.log"
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder), "--device", "cpu",
               "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]  # fmt: skip
    with log.open("wb") as out:
        server = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT,
            env=os.environ | {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        )  # fmt: skip
    try:
        until = time.monotonic() + 120
        while not healthy(port):
            assert server.poll() is None and time.monotonic() < until, log.read_text()[-3000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1", folder
    finally:
        server.terminate()
        server.wait(20)


def questions(home: Path, number: int) -> list[tuple[bytes, str]]:
    (world,) = (home / "data" / "shapes").iterdir()
    shards = Shards(world / "eval")
    return [(image, record.dialogues[0].turns[0].user) for record, image in (shards[i] for i in range(number))]


def test_a_server_answers_what_the_run_answers(served: tuple[str, Path], finished: Path) -> None:  # noqa: F811
    address, folder = served
    run, server = dress.load(finished / "logs" / "latest"), dress.load(address, model=str(folder))
    said = []
    for image, question in questions(finished, 4):
        expected = run.answer(image, question, max_new_tokens=12)
        assert server.answer(image, question, max_new_tokens=12).text == expected.text
        advised = run.improve(expected, "Look again.", condition="praise", max_new_tokens=12)
        told = server.improve(server.answer(image, question, max_new_tokens=12), "Look again.", max_new_tokens=12)
        assert told.text == advised.text, "the template's condition stands behind the last question only"
        said += [expected.text, advised.text]
    assert any(said)


def test_the_commands_of_the_page_ask_a_server(served: tuple[str, Path], finished: Path) -> None:  # noqa: F811
    address, folder = served
    (command,) = commands("docs/serving.md")
    places = {
        "responder=http://127.0.0.1:8000/v1": f"responder={address}",
        "server.model=models/mine": f"server.model={folder}",
    }
    run([*(places.get(one, one) for one in command), "records=2", "max_new_tokens=12"], finished)
    turns = [t for record, _ in Shards(finished / "collected") for d in record.dialogues for t in d.turns]
    assert turns and all(turn.assistant and turn.feedback for turn in turns)
