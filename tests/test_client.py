"""The client of an LLM server, against a server of ours that fails in every way we know."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from llm_server import FAULTS, Behaviour, error, reply, serving, started, verdict

from dress.base.ranks import processes
from dress.config.raters import Endpoint
from dress.llm.attempt import retry_after
from dress.llm.client import LLMClient
from dress.llm.ledger import Begin, End, Ledger, LedgerError, open_ledger
from dress.llm.limits import Limits
from dress.llm.replay import ReplayClient
from dress.llm.request import Request, Stopped
from dress.llm.structured import LADDER, Misfit, parse, storable

QUICK = {"timeout": 3.0, "concurrency": 32, "retries": 8}


def client(url: str, folder: Path, structured: str = "auto", **more: Any) -> LLMClient:
    endpoint = Endpoint(**({"base_url": url, "model": "loopback"} | QUICK | more))
    return LLMClient(endpoint, open_ledger(folder / "ledger.sqlite"), structured, backoff=0.005)


def requests(number: int, first: int = 0, **more: Any) -> list[Request]:
    return [
        Request(({"role": "user", "content": f"Give a rating to answer {n}."},), "test-1", RubricReply, **more)
        for n in range(first, first + number)
    ]


def reopened(ours: LLMClient) -> Path:
    """Leave a ledger as a process that ends does."""
    ours.ledger.close()
    return ours.ledger.path.parent


# --- faults ---------------------------------------------------------------------------------------


def test_2000_samples_at_20_percent_faults_end_as_done_or_failed_with_a_reason(tmp_path):
    with started("--faults", "0.2") as server:
        ours = client(server.url, tmp_path)
        replies = ours.ask_all(requests(2000))
        stats = server.stats()
    assert len(replies) == 2000 and all(reply.status == "done" or reply.reason for reply in replies)
    reasons = Counter(reply.reason for reply in replies if reply.status == "failed")
    assert 10 < reasons["refusal"] < 80 and reasons.total() < 100
    assert set(reasons) <= {"refusal", "not_json", "schema", "length", "empty"}, "faults of the network are overcome"
    assert {"timeout", "connection", "http_429", "http_500", "not_json", "schema", "length", "empty"} <= set(
        ours.tally.repeats
    )
    rows = list(ours.ledger.calls())
    probes = [row for row in rows if row["prompt_version"].startswith("probe-")]
    assert len(rows) - len(probes) == 2000 == len({row["key"] for row in rows} - {row["key"] for row in probes})
    assert max(stats["answered"].values()) == 1, "a sample that was answered was asked again"
    assert sum(stats["calls"].values()) == sum(row["attempts"] for row in rows)
    assert stats["most_in_flight"] <= QUICK["concurrency"]
    assert all(row["status"] == "done" or (row["reason"] and row["raw"] is not None) for row in rows)
    assert all(reply.parsed.rating in (1, 2, 3, 4) for reply in replies if reply.status == "done")


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_by_itself_ends_with_its_reason(fault, tmp_path):
    reason = {
        "429": "http_429", "500": "http_500", "cut_body": "connection", "reset": "connection", "cut_json": "not_json",
        "drift": "schema", "rating": "schema", "prose": "not_json",
    }.get(fault, fault)  # fmt: skip
    server = Behaviour(faults=1.0, kinds=(fault,), hang=0.3)
    with serving(server) as url:
        ours = client(url, tmp_path, "json_schema", retries=2, timeout=0.15)
        [reply] = ours.ask_all(requests(1))
        [row] = ours.ledger.calls()
        again = ours.ask_all(requests(1))
    assert (reply.status, reply.reason) == ("failed", reason)
    assert row["attempts"] == reply.attempts == (1 if fault == "refusal" else 3)
    assert json.loads(row["tries"]) == [reason] * (reply.attempts - 1)
    assert row["raw"] is not None
    assert again[0].recorded and sum(server.calls.values()) == reply.attempts, "a failure is not asked again by itself"


def test_failures_are_asked_again_when_told(tmp_path):
    with serving(Behaviour(faults=1.0, kinds=("refusal",))) as url:
        ours = client(url, tmp_path, "json_schema")
        assert {reply.status for reply in ours.ask_all(requests(3))} == {"failed"}
        reopened(ours)
    server = Behaviour()
    with serving(server) as url:
        same = client(url, tmp_path, "json_schema")
        assert {reply.status for reply in same.ask_all(requests(3))} == {"failed"}
        assert not server.calls
        reopened(same)
        again = client(url, tmp_path, "json_schema", retry_failed=True)
        assert {reply.status for reply in again.ask_all(requests(3))} == {"done"}
        assert {reply.recorded for reply in again.ask_all(requests(3))} == {True}
    assert sum(server.calls.values()) == 3
    assert again.ledger.counts()["calls"] == 6


def test_the_server_is_asked_to_repair_what_does_not_fit(tmp_path):
    server = Behaviour(faults=1.0, kinds=("rating",))
    with serving(server) as url:
        client(url, tmp_path, "json_schema").ask_all(requests(1))
    first, second, third = server.bodies
    assert len(first["messages"]) == 1
    assert "rating" in second["messages"][-1]["content"] and "got 7" in second["messages"][-1]["content"]
    assert [message["role"] for message in third["messages"]] == ["user", "assistant", "user", "assistant", "user"]


@pytest.mark.parametrize("answered", ["", "Incorrect API key provided: Bearer {key}"])
def test_a_refused_key_stops_at_once_and_is_shown_nowhere(answered, tmp_path, monkeypatch):
    key = "sk-canary-0123456789"
    monkeypatch.setenv("OUR_VARIABLE", key)  # a name that does not say it is secret
    server = Behaviour(key="another", strict=None)
    with serving(server) as url, pytest.raises(Stopped) as stopped:
        client(url, tmp_path, "json_schema", api_key_env="OUR_VARIABLE", concurrency=4).ask_all(requests(50))
    assert "refused the key" in str(stopped.value) and key not in str(stopped.value)
    assert sum(server.calls.values()) <= 4
    assert all(key.encode() not in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"<OUR_VARIABLE>" in b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_a_key_that_is_not_set_or_none_at_all(tmp_path, monkeypatch):
    monkeypatch.delenv("NOT_SET", raising=False)
    with pytest.raises(ValueError, match="api_key_env=NOT_SET: this variable is not set"):
        client("http://127.0.0.1:1/v1", tmp_path, api_key_env="NOT_SET")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-server")
    with serving(Behaviour(key="none")) as url:  # answers only this
        assert client(url, tmp_path).ask_all(requests(1))[0].status == "done"


def test_nobody_there_stops_and_costs_nothing(tmp_path):
    ours = client("http://127.0.0.1:9/v1", tmp_path, "json_schema", retries=2, price_in=1.0, budget=1.0)
    with pytest.raises(Stopped, match="nobody answers there"):
        ours.ask_all(requests(5))
    assert ours.ledger.spent == 0
    assert {row["status"] for row in ours.ledger.calls()} == {"pending"}, "they are asked when the server is back"


def test_equal_questions_are_one_call_and_draws_are_not(tmp_path):
    server = Behaviour()
    with serving(server) as url:
        ours = client(url, tmp_path, "json_schema")
        same = ours.ask_all(requests(1) * 5)
        drawn = ours.ask_all([requests(1, seed=seed)[0] for seed in range(3)])
    assert len({reply.key for reply in same}) == 1 and len({reply.key for reply in drawn}) == 3
    assert sum(server.calls.values()) == 4


def test_side_by_side_asks_of_one_question_share_a_call(tmp_path):
    server = Behaviour(delay=0.05)

    async def both(ours: LLMClient) -> list[Any]:
        replies = await asyncio.gather(*(ours.ask(requests(1)[0]) for _ in range(4)))
        await ours.aclose()
        return replies

    with serving(server) as url:
        replies = asyncio.run(both(client(url, tmp_path, "json_schema")))
    assert len({reply.text for reply in replies}) == 1 and sum(server.calls.values()) == 1


# --- structured replies ---------------------------------------------------------------------------


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


# --- speed ----------------------------------------------------------------------------------------


def test_everything_around_a_call_at_most_doubles_its_time(tmp_path):
    spec = importlib.util.spec_from_file_location("annotate", ROOT / "benchmarks" / "annotate.py")
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    out = tmp_path / "annotate.json"
    measured = benchmark.main(["--calls", "100", "--rounds", "3", "--out", str(out)])
    assert json.loads(out.read_text()) == measured
    assert all(len(rates) == 3 for rates in measured["rounds"].values())
    assert measured["ledger_over_bare"] >= 0.5


# --- limits, budget -------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 120), min_size=1, max_size=40),
    most_requests=st.none() | st.integers(1, 6), most_tokens=st.none() | st.integers(20, 200),
)  # fmt: skip
def test_no_minute_holds_more_than_allowed(sizes, most_requests, most_tokens):
    now = 0.0
    let_through: list[tuple[float, int]] = []

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    async def go() -> None:
        limits = Limits(most_requests, most_tokens, clock=lambda: now, sleep=sleep)
        for size in sizes:
            await limits.admit(size)
            let_through.append((now, size))

    asyncio.run(go())
    assert len(let_through) == len(sizes)
    for start, _ in let_through:
        window = [size for time_, size in let_through if start <= time_ < start + 60]
        assert most_requests is None or len(window) <= most_requests
        assert most_tokens is None or sum(window) <= most_tokens or len(window) == 1


def test_retry_after_holds_everybody_back(tmp_path, monkeypatch):
    server, times = Behaviour(delay=0.05), []
    answer = server._answer

    async def first_is_too_much(request: Any, body: dict[str, Any], asked: str) -> Any:
        times.append(time.monotonic())
        return (
            error(429, "slow down", {"Retry-After": "0.6"}) if len(times) == 1 else await answer(request, body, asked)
        )

    monkeypatch.setattr(server, "_answer", first_is_too_much)
    with serving(server) as url:
        client(url, tmp_path, "json_schema", concurrency=3).ask_all(requests(12))
    assert len(times) == 13
    early = [moment for moment in times if moment < times[0] + 0.55]
    assert len(early) <= 3, "only what was on its way is sent before the time the server asked for"


def test_retry_after_is_read_in_all_its_forms():
    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"retry-after-ms": "250", "retry-after": "7"}) == 0.25
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert retry_after({"retry-after": "soon"}) is None


def test_the_budget_stops_before_it_is_passed_and_outlives_the_process(tmp_path):
    server = Behaviour()  # 100 tokens in, 20 out
    prices = {"price_in": 10_000.0, "price_out": 10_000.0}  # 1.2 a call, at most 10 with the longest reply
    with serving(server) as url:
        for budget, about in ((60.0, 40), (90.0, 65)):
            ours = client(url, tmp_path, "json_schema", budget=budget, **prices)
            with pytest.raises(Stopped, match="stopped before the budget is passed"):
                ours.ask_all(requests(200, max_tokens=800))
            assert ours.ledger.spent <= budget
            assert about <= ours.ledger.counts()["done"] == round(ours.ledger.spent / 1.2)
            assert ours.ledger.reserved == pytest.approx(0)
            spent = ours.ledger.spent
            reopened(ours)
        assert sum(server.calls.values()) == round(spent / 1.2)
        more = client(url, tmp_path, "json_schema", budget=1000.0, **prices)
        assert {reply.status for reply in more.ask_all(requests(200, max_tokens=800))} == {"done"}
    assert max(server.calls.values()) == 1


def test_calls_that_may_have_been_billed_count_against_the_budget(tmp_path):
    with serving(Behaviour(faults=1.0, kinds=("timeout",), hang=0.3)) as url:
        ours = client(url, tmp_path, "json_schema", retries=1, timeout=0.1, price_out=1000.0, budget=100.0)
        ours.ask_all(requests(1, max_tokens=500))
    assert ours.ledger.spent == pytest.approx(2 * 0.5)


# --- the ledger -----------------------------------------------------------------------------------


def test_a_request_is_known_by_its_content():
    [plain] = requests(1)
    others = [
        requests(1, image=b"x")[0], requests(1, image=b"y")[0], requests(1, temperature=1.0)[0],
        requests(1, max_tokens=9)[0], requests(1, seed=1)[0], requests(1, top_p=0.5)[0], requests(1, first=1)[0],
        Request(plain.messages, "test-2", RubricReply), Request(plain.messages, "test-1"),
    ]  # fmt: skip
    keys = {request.key("m") for request in [plain, *others]} | {plain.key("n")}
    assert len(keys) == len(others) + 2
    assert plain.key("m") == requests(1)[0].key("m")


SHARING = """
import sys
from pathlib import Path
from dress.llm.client import LLMClient
from dress.llm.ledger import open_ledger
from dress.llm.request import Request
from dress.feedback.rubric import RubricReply
from dress.config.raters import Endpoint

url, folder, step = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
endpoint = Endpoint(base_url=url, model="loopback", timeout=3.0, concurrency=8, retries=8)
ours = LLMClient(endpoint, open_ledger(folder / "ledger.sqlite"), backoff=0.005)
said = [({"role": "user", "content": f"Give a rating to answer {n}."},) for n in range(120)]
asked = [Request(messages, "test-1", RubricReply) for messages in said]
print("ready", flush=True)
input()
replies = ours.ask_all(asked[::step][:80]) + ours.ask_all(asked[::step][80:])
print(sum(reply.status == "done" for reply in replies), ours.ledger.interrupted)
"""
"""A process that asks 120 questions, from the first or from the last."""


def test_processes_share_a_ledger_and_no_call_is_sent_twice(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    with started("--faults", "0.1", "--delay", "0.05") as server:
        command = [sys.executable, "-c", SHARING, server.url, str(tmp_path)]
        both = [
            subprocess.Popen(
                [*command, step], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
            )
            for step in ("1", "-1")
        ]
        assert all(process.stdout and process.stdout.readline() == "ready\n" for process in both)
        for process in both:
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()
        said = [process.communicate(timeout=100)[0].split() for process in both]
        stats = server.stats()
    rows = list(Ledger(tmp_path / "ledger.sqlite").calls())
    probes = [row for row in rows if row["prompt_version"].startswith("probe-")]
    assert len(rows) - len(probes) == 120 and said[0] == said[1] and said[0][1] == "0"
    assert int(said[0][0]) == sum(row["status"] == "done" for row in rows if row not in probes) > 100
    assert max(stats["answered"].values()) == 1, "a call was paid twice"
    assert sum(stats["calls"].values()) == sum(row["attempts"] for row in rows)
    assert len({row["owner"] for row in rows}) == 2, "one process asked for both"


def begin(key: str, lease: float = 60.0, budget: float | None = None) -> Begin:
    return Begin(key, "content", "m", "{}", "test-1", None, "[]", None, 0.5, lease, budget)


def test_a_claim_ends_with_its_lease_its_reply_or_its_processes(tmp_path):
    path = tmp_path / "ledger.sqlite"
    ours, other = Ledger(path), Ledger(path)
    assert ours.write([begin("a"), begin("b", lease=0.2), begin("c")]) == ["written"] * 3
    assert other.write([begin("a"), begin("b")]) == ["taken", "taken"] and other.taken("a")
    ours.write([End("a", "done", None, "said"), End("c", None, "timeout", "late", lease=60.0)])
    assert other.write([begin("a")]) == ["taken"] and other.get(["a"])["a"]["raw"] == "said"
    assert other.write([begin("c")]) == ["taken"], "it will be tried again there"
    ours.release("c")
    assert other.write([begin("c")]) == ["written"]
    time.sleep(0.25)
    assert other.write([begin("b")]) == ["written"], "its lease is over"
    assert other.spent == 0.5, "it may have been billed"
    ours.write([End("b", "done", None, "too late", cost=0.25)])
    assert "b" not in other.get(["b"]) and ours.spent == 0.75
    other.close()
    third = Ledger(path)
    assert third.interrupted == 0, "a process that lives may still get its replies"
    third.close(), ours.close()
    last = Ledger(path)
    assert last.interrupted == 2 and last.write([begin("b"), begin("c")]) == ["written"] * 2


def test_processes_keep_one_budget_together(tmp_path):
    ours, other = Ledger(tmp_path / "ledger.sqlite"), Ledger(tmp_path / "ledger.sqlite")
    assert ours.write([begin("a", budget=0.9)]) == ["written"]
    assert other.write([begin("b", budget=0.9)]) == ["wait"], "the call in flight may cost less"
    ours.write([End("a", "done", None, "said", cost=0.5)])
    assert other.write([begin("b", budget=0.9)]) == ["over"]
    assert other.write([begin("b", budget=1.0)]) == ["written"]


def test_a_ledger_of_before_has_claims_too(tmp_path):
    path = tmp_path / "ledger.sqlite"
    old = Ledger(path)
    old.write([begin("a"), begin("b")])
    for name in ("owner", "claimed_until", "settled_at"):
        old._db.execute(f"ALTER TABLE calls DROP COLUMN {name}")
    old._db.commit(), old.close()
    assert Ledger(path, readonly=True).counts()["calls"] == 2
    new = Ledger(path)
    assert new.interrupted == 2 and new.write([begin("a")]) == ["written"]


def test_another_machine_keeps_out(tmp_path, monkeypatch):
    ours = Ledger(tmp_path / "ledger.sqlite")
    monkeypatch.setattr("dress.llm.share.machine", lambda: "elsewhere")
    with pytest.raises(LedgerError, match="another process writes this ledger"):
        Ledger(tmp_path / "ledger.sqlite")
    ours.close()
    Ledger(tmp_path / "ledger.sqlite").close()


def test_readers_stand_beside_writers_and_calls_hold_no_lock(tmp_path):
    with serving(Behaviour()) as url:
        ours = client(url, tmp_path)
        ours.ask_all(requests(3))
        assert open_ledger(tmp_path / "ledger.sqlite") is ours.ledger
        beside = Ledger(tmp_path / "ledger.sqlite", readonly=True)
        assert beside.counts("test-1")["done"] == 3
        for row in ours.ledger.calls():
            ours.ledger.remember(f"seen {row['key']}", "yes")  # hangs where the walk holds the lock
    reopened(ours)
    assert Ledger(tmp_path / "ledger.sqlite").counts("test-1")["done"] == 3


# --- replies are not trusted ----------------------------------------------------------------------


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


def test_what_cannot_be_stored_loses_no_other_entry(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.write([begin("a"), begin("b"), begin("c")])
    became = ledger.write([End("a", "done", None, "x"), End("b", "done", None, "\ud83d"), End("c", "done", None, "y")])
    assert became[0] == became[2] == "written" and isinstance(became[1], UnicodeEncodeError)
    assert {key: row["raw"] for key, row in ledger.get(["a", "b", "c"]).items()} == {"a": "x", "c": "y"}


@given(st.text(st.characters(exclude_categories=()), max_size=30))
def test_storable_text_can_be_written(text):
    written = storable(text)
    assert "\0" not in written and written.encode().decode() == storable(written) == written
    if not any("\ud800" <= c <= "\udfff" or c == "\0" for c in text):
        assert written == text


def test_limits_outlive_an_event_loop(tmp_path):
    with serving(Behaviour(faults=0.5, kinds=("429",))) as url:
        ours = client(url, tmp_path)
        for first in (0, 40, 80):
            assert {reply.status for reply in ours.ask_all(requests(40, first))} == {"done"}
    limits = Limits(10, None)

    async def contend() -> None:
        limits.pause(0.05)
        await asyncio.gather(*(limits.admit(1) for _ in range(3)))

    for _ in range(3):
        asyncio.run(contend())


def test_several_processes_share_the_rate(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert processes() == 3
    limits = Limits(6, None)
    limits.share = processes()

    async def two_then_wait() -> None:
        await asyncio.gather(limits.admit(1), limits.admit(1))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(limits.admit(1), 0.05)

    asyncio.run(two_then_wait())


def test_what_is_no_ledger_is_named(tmp_path):
    (tmp_path / "ledger.sqlite").write_text("not a database, and long enough to be looked at" * 20)
    with pytest.raises(LedgerError, match="expected a ledger"):
        Ledger(tmp_path / "ledger.sqlite")
    with pytest.raises(FileNotFoundError, match="expected a ledger, found none"):
        Ledger(tmp_path / "none.sqlite", readonly=True)


def test_replay_answers_the_same_without_a_server(tmp_path):
    with serving(Behaviour(faults=0.3, kinds=("refusal",))) as url:
        ours = client(url, tmp_path)
        said = ours.ask_all(requests(30))
    path = ours.ledger.path
    reopened(ours)
    for file in path.parent.glob("*.lock"):
        file.unlink()
    replay = ReplayClient(Ledger(path, readonly=True), "loopback")
    again = replay.ask_all(requests(31))
    assert [(r.status, r.reason, r.parsed) for r in again[:30]] == [(r.status, r.reason, r.parsed) for r in said]
    assert (again[30].status, again[30].reason) == ("failed", "not_recorded")
    assert {"done", "failed"} == {reply.status for reply in said}
    assert verdict("0" * 64)["rating"] == 1
