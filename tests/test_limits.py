"""How fast, how often and for how much money a server is asked."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llm_client import client, reopened, requests
from llm_server import Behaviour, error, serving

from dress.base.ranks import processes
from dress.llm.attempt import retry_after
from dress.llm.limits import Limits
from dress.llm.request import Stopped


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
