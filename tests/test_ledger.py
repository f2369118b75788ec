"""The ledger: what a call is known by, who may send it, what survives a process, a machine, a bad entry."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from llm_client import client, reopened, requests
from llm_server import Behaviour, serving, started, verdict

from dress.feedback.rubric import RubricReply
from dress.llm.ledger import Begin, End, Ledger, LedgerError, open_ledger
from dress.llm.replay import ReplayClient
from dress.llm.request import Request


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
    [asked] = requests(1, seed=3)
    of_before = "ffac8601a50b7313830962d57533f8ce1eeb2416bf09e07127213f6fd573c65c"
    assert asked.key("m") == of_before, "replies of older ledgers would be paid for again"


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


def test_what_cannot_be_stored_loses_no_other_entry(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.write([begin("a"), begin("b"), begin("c")])
    became = ledger.write([End("a", "done", None, "x"), End("b", "done", None, "\ud83d"), End("c", "done", None, "y")])
    assert became[0] == became[2] == "written" and isinstance(became[1], UnicodeEncodeError)
    assert {key: row["raw"] for key, row in ledger.get(["a", "b", "c"]).items()} == {"a": "x", "c": "y"}


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
