"""Replies in a form, and replies that are not trusted: each can only fail its own call."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from llm_client import client, reopened, requests
from llm_server import Behaviour, error, reply, serving, verdict

from dress.base.files import write_lines
from dress.feedback.llm import LLMRater
from dress.feedback.rubric import Rubric, RubricReply
from dress.llm.request import Request
from dress.llm.structured import LADDER, Misfit, parse, storable
from dress.record import Dialogue, Record, Turn
from dress.rollout.answers_file import FileResponder
from dress.rollout.conversation import Opening, Rollout, converse
from dress.rollout.responder import Sampling


@pytest.mark.parametrize("refusal", [400, 500, None])
@pytest.mark.parametrize("form", LADDER)
def test_the_best_form_the_server_can_is_found_once(form, refusal, tmp_path):
    forms = tuple(other for other in LADDER[:-1] if LADDER.index(other) >= LADDER.index(form))
    server = Behaviour(forms=forms, strict=refusal)
    with serving(server) as url:
        ours = client(url, tmp_path)
        assert {reply.status for reply in ours.ask_all(requests(4))} == {"done"}
        rows = [row for row in ours.ledger.calls() if row["prompt_version"] == "test-1"]
        assert {row["form"] for row in rows} == {form}
        probed = sum(server.calls.values()) - 4
        reopened(ours)
        client(url, tmp_path).ask_all(requests(2, first=4))
    assert sum(server.calls.values()) - 6 == probed, "it was probed again"
    told = "fits this JSON Schema" in server.bodies[-1]["messages"][-1]["content"]
    assert told is (form in ("json_object", "text"))


def test_a_server_that_knows_only_max_completion_tokens(tmp_path, monkeypatch):
    server = Behaviour()
    answer = server._answer

    async def newer(request: Any, body: dict[str, Any], asked: str) -> Any:
        if "max_tokens" in body:
            return error(400, "Unsupported parameter: use 'max_completion_tokens' instead")
        return await answer(request, body, asked)

    monkeypatch.setattr(server, "_answer", newer)
    with serving(server) as url:
        replies = client(url, tmp_path, "json_schema", concurrency=4).ask_all(requests(12))
    assert {reply.status for reply in replies} == {"done"}
    assert sum(server.calls.values()) <= 12 + 4


@settings(deadline=None, max_examples=40)
@given(
    before=st.text(alphabet=st.characters(exclude_characters="{}")), after=st.text(),
    rating=st.sampled_from([1, "2", "3/4", 4.0, " 4 "]),
    critique=st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1).filter(str.strip),
)  # fmt: skip
def test_json_is_found_in_any_prose(before, after, rating, critique):
    reply = json.dumps({"critique": critique, "rating": rating, "refinement": None}, ensure_ascii=False)
    found = parse(before + reply + after, RubricReply)
    assert isinstance(found, RubricReply) and found.critique == critique and found.rating in (1, 2, 3, 4)


@pytest.mark.parametrize("rating", [0, 5, "7", 2.5, None, "good", [3], "3/5", True])
def test_no_other_rating_passes(rating):
    with pytest.raises(Misfit) as misfit:
        parse(json.dumps({"critique": "x", "rating": rating, "refinement": ""}), RubricReply)
    assert misfit.value.reason == "schema"


class Handler(Behaviour):
    """A server that does what a function says."""

    def __init__(self, work: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> None:
        super().__init__()
        self.work = work

    async def handle(self, request: web.Request) -> web.StreamResponse:
        return await self.work(request)


BAD_REPLIES = {
    "half a pair in the JSON": json.dumps({"critique": "fine", "rating": 3, "refinement": "More \ud83d"}),
    "half a pair outside": '{"critique": "fine \ud83d", "rating": 3, "refinement": ""}',
    "half a pair before": 'See \udc00: {"critique": "fine", "rating": 3, "refinement": ""}',
    "nul": json.dumps({"critique": "fi\0ne", "rating": 3, "refinement": ""}),
    "5,000 digits": '{"critique": "fine", "refinement": "", "rating": ' + "9" * 5000 + "}",
    "a number without end": '{"critique": "fine", "refinement": "", "rating": 1e400}',
    "nested": '{"critique":' * 50_000,
    "nested lists": '{"critique":' + "[" * 200_000,
    "many braces": "{" * 300_000,
}


@pytest.mark.parametrize("bad", BAD_REPLIES)
def test_a_reply_can_only_fail_its_own_call(bad, tmp_path):
    async def say(request: web.Request) -> web.Response:
        third = "answer 3." in (await request.json())["messages"][0]["content"]
        return reply(BAD_REPLIES[bad] if third else json.dumps(verdict("0" * 64)))

    with serving(Handler(say)) as url:
        ours = client(url, tmp_path, "json_schema", retries=1)
        began = time.monotonic()
        replies = ours.ask_all(requests(8))
        assert time.monotonic() - began < 20
    failed = [number for number, reply in enumerate(replies) if reply.status == "failed"]
    assert failed == [3] and replies[3].reason in ("schema", "not_json") and ours.tally.failed.total() == 1
    again = client(url, tmp_path, "json_schema").ask_all(requests(8))  # nobody is there any more
    assert [reply.status for reply in again] == [reply.status for reply in replies]


@pytest.mark.parametrize(
    "body",
    [
        '{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": ' + "9" * 4000 + "}}",
        '{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": ' + "9" * 5000 + "}}",
        "[" * 100_000,
        '{"choices": [{"message": {"content": "\\ud83d"}}], "model": "\\udc00"}',
        '{"choices": [{"message": {"content": "' + "x" * 17_000_000 + '"}}]}',
        '"\\ud83d"',
        "\x00\x01",
    ],
    ids=["tokens", "digits", "nested", "half a pair", "17 MB", "a text", "bytes"],
)
def test_a_body_can_only_fail_its_own_call(body, tmp_path):
    async def say(request: web.Request) -> web.Response:
        return web.Response(text=body, content_type="application/json")

    with serving(Handler(say)) as url:
        ours = client(url, tmp_path, retries=1)
        [failed] = ours.ask_all([Request(({"role": "user", "content": "?"},), "test-1")])
    assert (failed.status, failed.reason, failed.attempts) == ("failed", "bad_response", 2)
    assert len(failed.text or "") < 1_000_000


def test_a_body_that_drips_has_an_end(tmp_path):
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(200):
            await response.write(b" ")
            await asyncio.sleep(0.05)
        return response

    with serving(Handler(drip)) as url:
        began = time.monotonic()
        asked = Request(({"role": "user", "content": "?"},), "test-1")
        [late] = client(url, tmp_path, retries=0, timeout=0.5).ask_all([asked])
        assert (late.status, late.reason) == ("failed", "timeout") and time.monotonic() - began < 4


@given(st.text(st.characters(exclude_categories=()), max_size=30))
def test_storable_text_can_be_written(text):
    written = storable(text)
    assert "\0" not in written and written.encode().decode() == storable(written) == written
    if not any("\ud800" <= c <= "\udfff" or c == "\0" for c in text):
        assert written == text


def test_the_judges_words_stay_as_they_came(tmp_path):
    """Blanks and line ends at their ends too, in the record and as the user's next turn."""
    words = {"critique": " Too short.\n", "rating": 2, "refinement": "\tSay more.  "}
    replies = [json.dumps(words), json.dumps(words | {"rating": 4, "refinement": " \n"})]

    async def say(request: web.Request) -> web.Response:
        return reply(replies[(await request.json())["messages"][-1]["content"].count("Say more.")])

    opening = Opening(0, Dialogue(criterion="honesty", turns=[Turn(user="q")]), ["", ""])
    with serving(Handler(say)) as url:
        judge = LLMRater(client(url, tmp_path, "json_schema"), Rubric.load("feedback"))
        write_lines(
            tmp_path / "answers.jsonl", [{"key": "a", "question": text, "answer": "A"} for text in ("q", "Say more.")]
        )
        responder = FileResponder(tmp_path / "answers.jsonl")
        rollout = Rollout(responder, judge, Sampling(9, 9))
        [dialogue] = converse(rollout, [(Record(key="a", dialogues=[opening.dialogue]), None)], [opening])
    first, second = (turn.feedback[0] for turn in dialogue.turns)
    assert (first.critique, first.refinement) == (words["critique"], words["refinement"]) and first.rating == 2
    assert dialogue.turns[1].user == words["refinement"]
    assert (second.critique, second.refinement) == (words["critique"], None), "nothing can be asked with blanks alone"
