"""The page's server: what people say is kept whatever happens, and becomes records that training reads."""

from __future__ import annotations

import asyncio
import io
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from conftest import ROOT, huge_png, png, small_model
from fastapi.testclient import TestClient
from feedback_events import new
from PIL import Image
from rich.console import Console
from test_command_line import environment

from dress.chat.app import create_app
from dress.chat.conversations import Conversations
from dress.chat.queue import Queue
from dress.chat.responders import responders
from dress.config.commands import ChatCommand
from dress.data.shards import Shards, write_shards
from dress.feedback.journal import FeedbackJournal, JournalFull, read_events
from dress.record import Dialogue, Turn
from dress.rollout.checkpoint import CkptResponder
from dress.rollout.loaded_model import LoadedModel
from dress.run.chatting import chat
from dress.run.serving import listen
from dress.serving.app import create_app as create_model_app
from dress.serving.engine import Engine
from dress.worlds.shapes import generate as shapes

QUIET = Console(quiet=True)
KEY = "key-of-the-page"


@pytest.fixture(scope="module")
def address(tokenizer: Any) -> Iterator[str]:
    """A tiny model of ours, served on loopback; it answers 40 tokens under two conditions."""
    conditions = {"none": "", "praise": "Feedback: Perfect."}
    engine = Engine(LoadedModel(CkptResponder(small_model(tokenizer).eval(), "small"), 40, conditions))
    with listen("127.0.0.1", 0) as listener:
        server = uvicorn.Server(uvicorn.Config(create_model_app(engine, "small", "x"), log_level="warning"))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        server.should_exit = True
        thread.join(10)
    engine.close()


class Page:
    """A browser's place: requests as page.js sends them."""

    def __init__(self, client: TestClient) -> None:
        self.client = client
        assert client.get(f"/?key={KEY}").status_code == 200

    def post(self, path: str, **body: Any) -> Any:
        reply = self.client.post(path, content=json.dumps(body))
        assert reply.status_code == 200, reply.text
        return reply.json()

    def picture(self, data: bytes) -> str:
        return str(self.client.post("/pictures", content=data).json()["picture"])

    def ask(self, question: str, **fields: Any) -> dict[str, Any]:
        job = fields.pop("id", None) or new()
        body = {"id": job, "conversation": "conversation", "who": "Ann", "side": 0, "question": question} | fields
        self.post("/ask", **body)
        return self.end(job)

    def end(self, job: str, last: int | None = None) -> dict[str, Any]:
        headers = {} if last is None else {"Last-Event-ID": str(last)}
        events = self.client.get(f"/answers/{job}/events", headers=headers).text.strip().split("\n\n")
        (end,) = [json.loads(line.split("data: ")[1]) for line in events if line.startswith("event: end")]
        pieces = [line.split("data: ")[1] for line in events if line.startswith("id: ")]
        return end | {"pieces": [json.loads(piece) for piece in pieces]}

    def next(self, who: str, after: int) -> dict[str, Any]:
        return dict(self.client.get("/queue/next", params={"who": who, "after": after}).json())

    def say(self, answer: str, **fields: Any) -> Any:
        word = {"id": new(), "who": "Ann", "kind": "feedback", "answer": answer, "criterion": "honesty"} | fields
        return self.post("/feedback", **word)


def opened(out: Path, address: str | None, queue: Queue | None = None, **settings: Any) -> Iterator[Page]:
    from contextlib import ExitStack

    out.mkdir(exist_ok=True)
    command = ChatCommand(**({"responder": address, "out": str(out), "max_new_tokens": 12} | settings))
    with ExitStack() as stack:
        answering = responders(command, out, stack, QUIET)
        conversations = stack.enter_context(Conversations(out, command, answering, queue))
        client = stack.enter_context(TestClient(create_app(conversations, KEY, 1), base_url="http://127.0.0.1"))
        yield Page(client)


@pytest.fixture
def page(tmp_path: Path, address: str) -> Iterator[Page]:
    yield from opened(tmp_path / "out", address)


def test_a_session_becomes_shards_and_rows(page: Page, tmp_path: Path) -> None:
    picture = page.picture(png())
    first = page.ask("What is here?", picture=picture, condition="praise")
    assert "".join(first["pieces"]) == first["text"] and first["finish_reason"] == "length"
    assert page.say(first["answer"], rating=2, critique="No.", refinement="Name it.") == {"new": True}
    second = page.ask("Name it.", picture=picture, before=first["answer"])
    page.say(second["answer"], rating=4)
    turns = page.client.get(f"/conversation/{second['answer']}").json()["turns"]
    assert [turn["text"] for turn in turns] == [first["text"], second["text"]]
    time.sleep(2.6)  # written without being asked for
    ((record, image),) = Shards(tmp_path / "out")
    (dialogue,) = record.dialogues
    assert image == png() and [turn.assistant for turn in dialogue.turns] == [first["text"], second["text"]]
    assert dialogue.turns[0].provenance["condition"] == "praise" and dialogue.turns[0].cut
    row = json.loads((tmp_path / "out" / "lvlm_nlf" / "honesty_nlf.jsonl").read_text())
    assert "No." in json.dumps(row)


def test_what_is_sent_twice_is_there_once(page: Page, tmp_path: Path) -> None:
    job = new()
    first, again = page.ask("What?", id=job), page.ask("What?", id=job)
    assert first["answer"] == again["answer"]
    word = {"id": new(), "who": "Ann", "kind": "edit", "answer": first["answer"], "text": "Better."}
    assert [page.post("/feedback", **word)["new"] for _ in range(3)] == [True, False, False]
    assert len(list(read_events(tmp_path / "out" / "feedback.jsonl"))) == 2
    assert page.client.get("/feedback", params={"answer": first["answer"], "who": "Ann"}).json()["edit"] == "Better."


def test_a_lost_connection_goes_on_behind_the_last_piece(page: Page) -> None:
    whole = page.ask("Go on.", id=(job := new()))
    assert len(whole["pieces"]) > 3
    assert page.end(job, last=1)["pieces"] == whole["pieces"][2:]
    assert page.client.get("/answers/unknown-job/events").status_code == 404


def test_stopped_answers_are_kept_as_cut(tmp_path: Path, address: str) -> None:
    for page in opened(tmp_path / "out", address):
        body = {"id": (job := new()), "conversation": "conversation", "who": "Ann", "side": 0, "question": "Go on."}
        page.post("/ask", **body)
        page.client.post(f"/answers/{job}/stop")
        end = page.end(job)
        assert end.get("finish_reason") == "length" or "stopped" in end["failed"]


def test_two_people_at_once_lose_nothing(tmp_path: Path, address: str) -> None:
    for page in opened(tmp_path / "out", address):
        answer = page.ask("What?")["answer"]

        def rate(who: str, page: Page = page, answer: str = answer) -> None:
            for rating in (1, 2, 3, 4) * 5:
                page.say(answer, who=who, rating=rating)

        people = [threading.Thread(target=rate, args=(who,)) for who in ("Ann", "Bob", "Eve")]
        for one in people:
            one.start()
        for one in people:
            one.join()
        rows = page.client.get("/agreement").json()["honesty"]
        assert rows == {"people": 3, "answers": 1, "alpha": None}
    events = list(read_events(tmp_path / "out" / "feedback.jsonl"))
    assert len(events) == 61 and {event.who for event in events} == {"Ann", "Bob", "Eve"}
    ((record, _),) = Shards(tmp_path / "out")
    assert [one.rating for one in record.dialogues[0].turns[0].feedback] == [4, 4, 4]


def test_a_page_that_comes_back_finds_all(tmp_path: Path, address: str) -> None:
    for page in opened(tmp_path / "out", address):
        answer = page.ask("What?")["answer"]
        page.say(answer, rating=3)
    for page in opened(tmp_path / "out", address):
        assert page.client.get("/feedback", params={"answer": answer, "who": "Ann"}).json()["feedback"]["honesty"][
            "rating"
        ]
        assert page.ask("More.", before=answer)["answer"] != answer


# --- what is refused -----------------------------------------------------------------------------


def gif() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4)).save(out, "GIF")
    return out.getvalue()


def animation() -> bytes:
    out, frames = io.BytesIO(), [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    frames[0].save(out, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    return out.getvalue()


def test_pictures(page: Page, tmp_path: Path) -> None:
    huge = page.client.post("/pictures", content=huge_png())
    assert huge.status_code == 422 and "13000 x 13000" in huge.json()["error"]
    assert page.client.post("/pictures", content=gif()).status_code == 422
    assert page.client.post("/pictures", content=png()[:40]).status_code == 422
    assert page.client.post("/pictures", content=b"x" * (33 * 2**20)).status_code == 400
    assert page.client.post("/pictures", content=animation()).json()["animated"] is True
    names = {file.name for file in (tmp_path / "out" / "images").iterdir()}
    assert len(names) == 1 and all(re.fullmatch(r"[0-9a-f]{64}\.webp", name) for name in names)
    for path in ("/pictures/../feedback.jsonl", "/pictures/%2e%2e%2ffeedback.jsonl", "/pictures/..%2fx"):
        assert page.client.get(path).status_code in (400, 404, 405)
        assert page.client.post(path, content=png()).status_code in (400, 404, 405)


def test_only_the_page_itself_may_ask(page: Page) -> None:
    client = page.client
    for headers in ({"Host": "evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}):
        assert client.post("/feedback", content="{}", headers=headers).status_code in (400, 403)
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    client.cookies.clear()
    for path in ("/", "/state", "/page.js", "/agreement", "/?key=another"):
        assert client.get(path).status_code == 403


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"side": 1}, "side: expected less than 1"),
        ({"condition": "rude"}, "condition: expected one of none, praise"),
        ({"picture": "0" * 64}, "picture: expected one that was sent before"),
        ({"before": "0" * 64}, "before: expected the name of an answer"),
        ({"question": ""}, "question"),
        ({"who": " "}, "who"),
        ({"responder": "http://169.254.169.254/v1"}, "responder: Extra inputs are not permitted"),
        ({"id": "../x"}, "id"),
    ],
)
def test_what_a_page_cannot_ask(page: Page, fields: dict[str, Any], word: str) -> None:
    body = {"id": new(), "conversation": "conversation", "who": "Ann", "side": 0, "question": "x"} | fields
    reply = page.client.post("/ask", content=json.dumps(body))
    assert reply.status_code == 400 and word in reply.json()["error"]


def test_what_a_page_cannot_say(page: Page) -> None:
    answer = page.ask("What?")
    end = len(answer["text"]) + 1
    for fields, word in (
        ({"answer": "0" * 64}, "expected the name of an answer that was shown"),
        ({"rating": 5}, "rating"),
        ({"spans": [{"start": 0, "end": end}]}, "spans: expected 0 <= start < end"),
        ({"criterion": "beauty"}, "criterion"),
        ({"critique": "x" * 100_001}, "critique"),
    ):
        word_ = {"id": new(), "who": "Ann", "kind": "feedback", "answer": answer["answer"], "criterion": "honesty"}
        reply = page.client.post("/feedback", content=json.dumps(word_ | fields))
        assert reply.status_code == 400 and word in reply.json()["error"]


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ([], "responder: expected a run folder"),
        (["responder=nowhere"], "responder=nowhere: expected a run folder"),
        (["responder=http://127.0.0.1:9/v1"], "expected a server that names its models"),
        (["responder=x", "blind=true"], "blind=true: expected two responders"),
        (["queue=x", "vs=y"], "vs: expected responder=… beside it"),
        (["responder=http://127.0.0.1:9/v1", "queue=prompts"], "queue=prompts: expected a folder of shards"),
        (["logs/latest"], "chat: expected settings (responder=logs/latest)"),
        (["responder=http://user:word@127.0.0.1/v1"], "without user, password"),
    ],
)
def test_mistakes_on_the_command_line(typed: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, OSError), match=re.escape(words)):
        chat([*typed, "port=0", f"out={tmp_path / 'out'}"])


@pytest.mark.slow
def test_one_page_writes_a_folder(tmp_path: Path, address: str) -> None:
    """Another process is refused by name, and leaves what is there as it is."""
    words = ["src/chat.py", f"responder={address}", f"out={tmp_path}", "port=0"]
    command = [sys.executable, *words]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as one:
        assert one.stdout is not None and "http://127.0.0.1:" in one.stdout.readline()
        two = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
        one.terminate()
    assert two.returncode == 1 and "another process writes this folder" in two.stderr and one.returncode == 75


# --- a queue -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("asked")
    write_shards(folder, shapes.samples("prompts", 3, seed=0))
    return folder


def test_a_queue_of_questions_shows_everybody_the_same(tmp_path: Path, address: str, asked: Path) -> None:
    for page in opened(tmp_path / "out", address, Queue(Shards(asked), True, 2), temperature=1.0):
        answers = {}
        for who in ("Ann", "Bob"):
            after, seen = -1, []
            while (item := page.client.get("/queue/next", params={"who": who, "after": after}).json())[
                "number"
            ] is not None:
                (one,) = item["answers"]
                name = one.get("answer") or page.end(one["job"])["answer"]
                page.say(name, who=who, criterion=item["criterion"], rating=len(seen) % 3 + 1 + (who == "Bob"))
                seen.append(name)
                item = page.next(who, item["number"])
            assert item["done"] == item["total"] == len(seen)
            answers[who] = seen
        assert answers["Ann"] == answers["Bob"] and len(answers["Ann"]) > 2
        rows = page.client.get("/agreement").json()
        assert sum(row["answers"] for row in rows.values()) == len(set(answers["Ann"]))
    stored = {record.key for record, _ in Shards(tmp_path / "out")}
    assert stored == {Shards(asked).record(number).key for number in (0, 1)}
    for page in opened(tmp_path / "out", address, Queue(Shards(asked), True, None), temperature=1.0):
        assert page.client.get("/queue/next", params={"who": "Ann"}).json()["done"] == len(answers["Ann"])


def judged(folder: Path) -> list[tuple[str, str]]:
    """A set with answers of two turns."""
    samples = []
    for record, image in shapes.samples("prompts", 2, seed=0):
        turns = [
            Turn(user="What?", assistant="A cat.", feedback=[]),
            Turn(user="No.", assistant=f"A dog, {record.key}."),
        ]
        samples.append((record.model_copy(update={"dialogues": [Dialogue(criterion="honesty", turns=turns)]}), image))
    write_shards(folder, samples)
    return [(turn.user, turn.assistant or "") for record, _ in samples for turn in record.dialogues[0].turns]


def test_a_queue_of_answers_that_are_there_needs_no_responder(tmp_path: Path) -> None:
    texts = judged(tmp_path / "set")
    for page in opened(tmp_path / "out", None, Queue(Shards(tmp_path / "set"), False, None)):
        for number, (question, text) in enumerate(texts):
            item = page.client.get("/queue/next", params={"who": "Ann"}).json()
            assert (item["number"], item["question"], item["answers"][0]["text"]) == (number, question, text)
            page.say(item["answers"][0]["answer"], rating=number + 1)
        assert page.client.get("/queue/next", params={"who": "Ann"}).json() == {"number": None, "total": 4, "done": 4}
    rows = [[turn.rating for turn in record.dialogues[0].turns] for record, _ in Shards(tmp_path / "out")]
    assert rows == [[1, 2], [3, 4]]


def test_two_responders_without_names(tmp_path: Path, address: str) -> None:
    """Who stands where changes with the conversation; names come once both answers are rated."""
    for page in opened(tmp_path / "out", address, vs=address, vs_model="small:praise", blind=True):
        state = page.client.get("/state", params={"conversation": "one-of-many"}).json()
        assert [side["name"] for side in state["sides"]] == ["answer 1", "answer 2"]
        orders, answers = set(), []
        for number in range(12):
            answers = [page.ask("What?", side=side, conversation=f"conversation-{number}") for side in (0, 1)]
            names = {"conversation": f"conversation-{number}", "who": f"Ann {number}"}
            names["answers"] = ",".join(one["answer"] for one in answers)
            assert page.client.get("/names", params=names).status_code == 400
            for one in answers:
                page.say(one["answer"], who=f"Ann {number}", rating=2)
            orders.add(tuple(page.client.get("/names", params=names).json()["names"]))
        assert orders == {("small", "small:praise"), ("small:praise", "small")}


def test_an_answer_that_a_server_does_not_give_is_said(tmp_path: Path, address: str) -> None:
    for page in opened(tmp_path / "out", address, max_new_tokens=10**6):
        end = page.ask("What?")
        assert "answer" not in end and "max_new_tokens: expected less than" in end["failed"]


def test_jobs_of_one_loop(tmp_path: Path) -> None:
    """Whoever listens late hears all; whoever listens twice hears it twice."""
    from dress.chat.answers import Job
    from dress.dialogue.spans import Completion

    async def source():
        for piece in "abc":
            yield piece
            await asyncio.sleep(0)
        yield Completion("abc", "stop")

    async def finish(whole: Completion) -> dict[str, object]:
        return {"text": str(whole)}

    async def hear() -> None:
        job = Job()
        job.start(source(), finish)
        assert [piece async for _, piece in job.listen()] == list("abc") and job.end == {"text": "abc"}
        for first in range(4):
            assert [piece async for _, piece in job.listen(first)] == list("abc")[first:]

    asyncio.run(hear())


def test_room_for_nothing_is_told_to_the_page(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = page.ask("What?")["answer"]

    def full(self: FeedbackJournal, event: object) -> bool:
        raise JournalFull("expected room")

    monkeypatch.setattr(FeedbackJournal, "append", full)
    word = {"id": new(), "who": "Ann", "kind": "feedback", "answer": answer, "criterion": "honesty", "rating": 1}
    assert page.client.post("/feedback", content=json.dumps(word)).status_code == 507
