"""The client of an LLM server, against a server of ours that fails in every way we know."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import pytest
from aiohttp import web
from conftest import ROOT
from llm_client import QUICK, client, reopened, requests
from llm_server import FAULTS, Behaviour, error, serving, started

from dress.llm.client import LLMClient
from dress.llm.request import Stopped


@pytest.mark.parametrize("samples", [500, pytest.param(2000, marks=pytest.mark.slow)])
def test_samples_at_20_percent_faults_end_as_done_or_failed_with_a_reason(samples, tmp_path):
    with started("--faults", "0.2") as server:
        ours = client(server.url, tmp_path)
        replies = ours.ask_all(requests(samples))
        stats = server.stats()
    assert len(replies) == samples and all(reply.status == "done" or reply.reason for reply in replies)
    reasons = Counter(reply.reason for reply in replies if reply.status == "failed")
    assert samples / 200 < reasons["refusal"] < samples / 25 and reasons.total() < samples / 20
    assert set(reasons) <= {"refusal", "not_json", "schema", "length", "empty"}, "faults of the network are overcome"
    assert {"timeout", "connection", "http_429", "http_500", "not_json", "schema", "length", "empty"} <= set(
        ours.tally.repeats
    )
    rows = list(ours.ledger.calls())
    probes = [row for row in rows if row["prompt_version"].startswith("probe-")]
    assert len(rows) - len(probes) == samples == len({row["key"] for row in rows} - {row["key"] for row in probes})
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


@pytest.mark.parametrize("form", ["json_schema", "auto"])
def test_a_web_page_is_no_server_and_stops_at_once(form, tmp_path):
    page = Behaviour()

    async def log_in(request: Any, body: dict[str, Any], asked: str) -> Any:
        return web.Response(text="<!DOCTYPE html><html>Log in</html>", content_type="text/html")

    page._answer = log_in  # type: ignore[method-assign]
    with serving(page) as url, pytest.raises(Stopped, match="no OpenAI-compatible server: expected JSON, got a web pa"):
        client(url, tmp_path, form, concurrency=4).ask_all(requests(32))
    assert len(page.bodies) <= 4


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


WAITING = """
import signal, sys
from pathlib import Path
from llm_client import client, requests

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
ours = client(sys.argv[1], Path(sys.argv[2]), "json_schema", retries=1000)
print("ready", flush=True)
ours.ask_all(requests(3))
"""


def test_an_interrupt_ends_the_waiting_and_gives_the_calls_up(tmp_path):
    """However long a server asks to wait, Ctrl-C ends it, and the next process may ask at once."""
    busy = Behaviour()

    async def too_much(request: Any, body: dict[str, Any], asked: str) -> Any:
        return error(429, "slow down", {"Retry-After": "600"})

    busy._answer = too_much  # type: ignore[method-assign]
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}"}
    with serving(busy) as url:
        process = subprocess.Popen(
            [sys.executable, "-c", WAITING, url, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=environment, text=True,
        )  # fmt: skip
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        until = time.monotonic() + 30
        while len(busy.bodies) < 3 and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in process.communicate(timeout=10)[1]
    with serving(Behaviour()) as url:
        again = client(url, tmp_path, "json_schema")
        assert again.ledger.interrupted == 0, "nothing was in flight"
        assert {reply.status for reply in again.ask_all(requests(3))} == {"done"}
