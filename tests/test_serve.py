"""`dress serve`: a model of ours behind OpenAI's interface answers what the model answers, and ends when told to."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from conftest import ROOT, huge_png, png, small_model
from families import checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from test_command_line import environment
from transformers import PreTrainedTokenizerFast

import dress
from dress.base.files import data_uri
from dress.dialogue.encode import DialogueEncoder
from dress.record import CUT, Dialogue, Turn
from dress.rollout.checkpoint import CkptResponder
from dress.rollout.loaded_model import LoadedModel
from dress.rollout.responder import Sampling
from dress.serving.engine import Engine, Written
from dress.serving.requests import Message, Question, messages_of, question_of

KEY = "a-key-of-the-test"
ASKED = {"model": "mine", "max_tokens": 12}


class Server:
    """`dress serve` of a folder, a process of its own."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "src" / "serve.py"), str(folder), "port=0", "name=mine", *words],
            env=environment(SERVER_KEY=KEY, OMP_NUM_THREADS="1"), stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.url = re.findall(r"http://127\.0\.0\.1:\d+/v1", line)[0]

    def post(self, body: dict[str, object], key: str = KEY) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {key}"}
        return httpx2.post(f"{self.url}/chat/completions", json=ASKED | body, headers=headers, timeout=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint("llava", tmp_path_factory.mktemp("families"))


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    one = Server(folder, "api_key_env=SERVER_KEY")
    yield one
    one.process.send_signal(signal.SIGTERM)
    assert one.process.wait(20) == -signal.SIGTERM  # uvicorn ends, and passes the signal on


def said(question: str, picture: bytes | None = None) -> dict[str, object]:
    dialogue = Dialogue(turns=[Turn(user=question)])
    return {"messages": messages_of(dialogue, None if picture is None else data_uri(picture))}


def streamed(response: httpx2.Response) -> tuple[str, list[dict[str, object]]]:
    events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert events.pop() == "[DONE]"
    chunks = [json.loads(event) for event in events]
    text = "".join(one["delta"].get("content", "") for chunk in chunks for one in chunk["choices"])
    return text, chunks


def test_a_server_answers_as_the_model_does(server: Server, folder: Path) -> None:
    model = dress.load(folder)
    for picture in (png(), None):
        expected = model.answer(picture, "What is here?", max_new_tokens=12)
        whole = server.post(said("What is here?", picture)).json()
        text, chunks = streamed(
            server.post(said("What is here?", picture) | {"stream": True, "stream_options": {"include_usage": True}})
        )
        assert whole["choices"][0]["message"]["content"] == text == expected.text
        assert whole["choices"][0]["finish_reason"] == expected.finish_reason
        assert chunks[-1]["usage"] == whole["usage"] and chunks[-1]["usage"]["completion_tokens"] == 12
    advised = model.improve(expected, "Say more.", max_new_tokens=12)
    messages = messages_of(Dialogue(turns=[*expected.dialogue.turns, Turn(user="Say more.")]), None)
    assert server.post({"messages": messages}).json()["choices"][0]["message"]["content"] == advised.text
    sampled = {"temperature": 1.0, "top_p": 0.9, "seed": 7}
    drawn = [server.post(said("And?") | sampled | more).json() for more in ({}, {}, {"seed": 8})]
    answers = {one["choices"][0]["message"]["content"] for one in drawn}
    assert len(answers) == 2  # a seed gives one answer


def test_the_project_itself_can_ask_it(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_KEY", KEY)
    behind = dress.load(server.url, model="mine:none", api_key_env="SERVER_KEY")
    expected = dress.load(folder).answer(png(), "What is here?", "none", max_new_tokens=9)
    assert behind.answer(png(), "What is here?", max_new_tokens=9).text == expected.text


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({"model": "other"}, 404, "model: expected one of mine, mine:none"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "expected a user's message before"),
        ({"messages": [{"role": "user", "content": "x"}] * 2}, 400, "expected an assistant's message between"),
        ({"messages": [{"role": "user", "content": ""}]}, 400, "expected a text"),
        ({"n": 2}, 400, "n: "),
        ({"tools": [{}]}, 400, "tools"),
        ({"max_tokens": 10**6}, 400, "max_new_tokens: expected less than"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"temperature": -1}, 400, "temperature"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused_by_name(
    server: Server, body: dict[str, object], status: int, word: str
) -> None:
    reply = server.post(said("x") | body)
    assert reply.status_code == status and word in reply.json()["error"]["message"]


@pytest.mark.parametrize("url", ["http://169.254.169.254/x", "file:///etc/passwd", "data:text/html;base64,PGI+", "x"])
def test_no_address_is_fetched(server: Server, url: str) -> None:
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What?"}]
    reply = server.post({"messages": [{"role": "user", "content": parts}]})
    assert reply.status_code == 400 and "no address is fetched" in reply.json()["error"]["message"]


def test_pictures_that_are_none_or_too_large_and_other_keys(server: Server) -> None:
    assert "pixels" in server.post(said("x", huge_png())).json()["error"]["message"]
    assert "do not decode" in server.post(said("x", b"\x89PNG nothing")).json()["error"]["message"]
    assert server.post(said("x"), key="another").status_code == 401
    assert httpx2.get(f"{server.url}/models").status_code == 401
    rows = httpx2.get(f"{server.url}/models", headers={"Authorization": f"Bearer {KEY}"}).json()["data"]
    assert [row["id"] for row in rows] == ["mine", "mine:none"]
    large = {"messages": [{"role": "user", "content": "x" * (49 * 2**20)}]}
    assert server.post(large).status_code == 413


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "serve: expected a run or a model's folder"),
        (["nowhere"], "nowhere: expected a run folder"),
        (["x", "host=0.0.0.0"], "host=0.0.0.0: others reach it there, so it needs a key"),
        (["x", "prt=1"], "prt: no such setting. Did you mean port?"),
    ],
)
def test_mistakes_on_the_command_line(words: list[str], said: str) -> None:
    from dress.run.serving import serve

    with pytest.raises((ValueError, OSError), match=re.escape(said)):
        serve([*words, *([] if any("port" in word for word in words) else ["port=0"])])


def test_a_port_that_is_taken_is_named() -> None:
    from dress.run.serving import listen, serve

    with listen("127.0.0.1", 0) as taken, pytest.raises(ValueError, match=r"port=\d+: cannot listen at"):
        serve(["x", f"port={taken.getsockname()[1]}"])


def engine_of(tokenizer: PreTrainedTokenizerFast) -> Engine:
    return Engine(LoadedModel(CkptResponder(small_model(tokenizer).eval(), "small"), 300))


def test_an_answer_that_nobody_waits_for_ends(tokenizer: PreTrainedTokenizerFast) -> None:
    engine = engine_of(tokenizer)
    sampling, question = Sampling(300, 1), Question(Dialogue(turns=[Turn(user="What?")]), None)

    async def leave() -> tuple[list[str], Written]:
        stopped = threading.Event()
        pieces: list[str] = []
        async for piece in engine.answer(question, "", sampling, 0, stopped):
            if isinstance(piece, Written):
                return pieces, piece
            pieces.append(piece)
            stopped.set()
        raise AssertionError

    pieces, written = asyncio.run(leave())
    assert written.completion.finish_reason == CUT and 0 < written.tokens < 60
    assert "".join(pieces) == written.completion
    engine.close()


def test_a_client_that_goes_away_frees_the_model(server: Server) -> None:
    """A stream of hundreds of tokens is left; the next question is answered long before they would be written."""
    body = ASKED | said("Go on.") | {"stream": True, "max_tokens": 600}
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx2.stream("POST", f"{server.url}/chat/completions", json=body, headers=headers, timeout=60) as reply:
        lines = reply.iter_lines()
        for _ in range(5):
            next(lines)
    began = time.monotonic()
    left = server.post(said("And?")).json()["usage"]["completion_tokens"]
    first = time.monotonic() - began
    began = time.monotonic()
    whole = server.post(said("Go on.") | {"max_tokens": 600}).json()["usage"]["completion_tokens"]
    assert (left, whole) == (12, 600) and first < (time.monotonic() - began) / 2


@pytest.fixture(scope="module")
def encoders(tokenizer: PreTrainedTokenizerFast, folder: Path) -> list[DialogueEncoder]:
    """Of bytes; and of pieces that fall back to bytes, with a blank in front."""
    llava = dress.load(folder).responder
    assert isinstance(llava, CkptResponder)
    return [small_model(tokenizer).encoder, llava.model.encoder]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_what_is_shown_of_an_unfinished_answer_stays(encoders: list[DialogueEncoder], data: st.DataObject) -> None:
    encoder = data.draw(st.sampled_from(encoders))
    text = st.text(max_size=20).map(lambda text: encoder.texts.encode(text, True))
    tokens = st.lists(st.integers(0, len(encoder.tokenizer) - 1), max_size=20)
    ids = [*data.draw(text), *data.draw(tokens), *([next(iter(encoder.stops))] if data.draw(st.booleans()) else [])]
    whole, before = encoder.decode(ids), ""
    ids = ids[: next((n + 1 for n, one in enumerate(ids) if one in encoder.stops), len(ids))]
    for number in range(len(ids) + 1):
        begun = encoder.begun(ids[:number])
        assert begun.startswith(before) and whole.startswith(begun)
        before = begun


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.tuples(st.text(min_size=1, max_size=9), st.text(max_size=9)), max_size=3),
    last=st.text(min_size=1, max_size=9),
    system=st.none() | st.text(max_size=9),
)
def test_messages_and_dialogues_are_the_same_thing(texts, last: str, system: str | None) -> None:
    turns = [*(Turn(user=user, assistant=answer) for user, answer in texts), Turn(user=last)]
    dialogue = Dialogue(system=system, turns=turns)
    messages = [Message.model_validate(one) for one in messages_of(dialogue, data_uri(png()))]
    question = question_of(messages)
    assert (question.dialogue, question.picture) == (dialogue, png())
