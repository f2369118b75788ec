"""The ledger: one SQLite file in which every call to a language model stands, keyed by its content.

A call is written down before it is sent and again when its reply is there, both synced to disk, so that
a killed process loses no reply and its unanswered calls are known. Processes of one machine share a ledger:
who writes a call down first has a claim on it, and the others wait for its reply instead of paying again.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from weakref import WeakValueDictionary

from dress.llm.share import Share

VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answers TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS calls (
  key TEXT PRIMARY KEY,            -- sha256 of content, model, sampling
  content TEXT NOT NULL,           -- sha256 of messages, image bytes, prompt version, schema
  model TEXT NOT NULL,
  sampling TEXT NOT NULL,          -- JSON
  prompt_version TEXT NOT NULL,
  image TEXT,                      -- sha256 of the bytes that were sent
  messages TEXT NOT NULL,          -- JSON
  status TEXT NOT NULL CHECK (status IN ('in_flight', 'pending', 'done', 'failed')),
  reason TEXT,                     -- of a failure; of an answer why it ended (stop, length …)
  raw TEXT,                        -- the last reply, or the server's error
  parsed TEXT,                     -- JSON
  form TEXT,                       -- json_schema, json_object_schema, json_object, text
  tries TEXT NOT NULL DEFAULT '[]',         -- JSON: what each attempt before the last ended with
  attempts INTEGER NOT NULL DEFAULT 0,      -- calls that were sent
  interrupted INTEGER NOT NULL DEFAULT 0,   -- of those, in flight when a process died
  prompt_tokens INTEGER NOT NULL DEFAULT 0,
  completion_tokens INTEGER NOT NULL DEFAULT 0,
  cost REAL NOT NULL DEFAULT 0,    -- of all attempts; unanswered ones count as the most they can cost
  reserved REAL NOT NULL DEFAULT 0,         -- the most that the call in flight can cost
  seconds REAL,                    -- of the last attempt
  served_by TEXT,                  -- model and system fingerprint, as the server named them
  finished TEXT,                   -- time
  owner TEXT,                      -- process that claimed it last
  claimed_until REAL,              -- Unix time after which another process may send it
  settled_at REAL                  -- Unix time
);
CREATE INDEX IF NOT EXISTS calls_by_content ON calls (content);
CREATE INDEX IF NOT EXISTS calls_by_cost ON calls (cost, reserved);
"""
_CLAIMS = {"owner": "TEXT", "claimed_until": "REAL", "settled_at": "REAL"}
"""Columns that older ledgers lack."""
BUSY = 60.0
"""Seconds that a process may wait for another's transaction."""
UNSTORABLE = (ValueError, OverflowError, sqlite3.DataError, sqlite3.InterfaceError, sqlite3.IntegrityError)
"""What SQLite raises for a value that it cannot hold."""

WriteResult = Literal["written", "taken", "wait", "over"]
"""What became of an entry. A call was not begun where another process asks it or has its reply (`taken`), or where
the budget might be passed, by calls in flight (`wait`) or without them (`over`)."""


class LedgerError(ValueError):
    """A ledger that cannot be used; the message names the file and what to do."""


@dataclass(frozen=True)
class Begin:
    """A call about to be sent."""

    key: str
    content: str
    model: str
    sampling: str
    prompt_version: str
    image: str | None
    messages: str
    form: str | None
    reserved: float
    lease: float = 0.0
    """Seconds after which another process may send it."""
    budget: float | None = None
    """That all calls of the ledger may cost."""


@dataclass(frozen=True)
class End:
    """A call that came back. `status` None: it will be tried again within `lease`, and `reason` joins the tries."""

    key: str
    status: str | None
    reason: str | None
    raw: str | None
    parsed: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    seconds: float = 0.0
    served_by: str | None = None
    lease: float = 0.0


class Ledger:
    """An open ledger.

    Args:
        path: of the file; made where it is missing.
        readonly: only look; other processes may write meanwhile.

    Raises:
        LedgerError: a process on another machine writes it, or it is no ledger of this version.
        FileNotFoundError: none there to be read.
    """

    def __init__(self, path: Path, readonly: bool = False) -> None:
        self.path, self.readonly = path, readonly
        self.owner, self.opened = uuid.uuid4().hex, time.time()
        if readonly and not path.is_file():
            raise FileNotFoundError(f"{path}: expected a ledger, found none")
        self._lock, self._share = threading.Lock(), None if readonly else _share(path)
        try:
            self._db = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={'ro' if readonly else 'rwc'}", uri=True, check_same_thread=False,
                timeout=BUSY,
            )  # fmt: skip
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA synchronous=FULL")
            if self._share is not None and self._share.first:
                self._set_up()
            version = self.fact("version")
        except sqlite3.DatabaseError as error:
            self._leave()
            raise LedgerError(f"{path}: expected a ledger (SQLite), got something else ({error})") from None
        if version != str(VERSION):
            self._leave()
            raise LedgerError(f"{path}: expected a ledger of version {VERSION}, got {version}")
        self.interrupted = self._recover() if self._share is not None and self._share.first else 0
        """Calls that were in flight when an earlier process died, found just now."""
        if self._share is not None:
            self._share.admit_others()

    def _set_up(self) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        tables = self._db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'calls'").fetchone()[0]
        if tables:
            columns = {row["name"] for row in self._db.execute("PRAGMA table_info(calls)")}
            for name in _CLAIMS.keys() - columns:
                self._db.execute(f"ALTER TABLE calls ADD COLUMN {name} {_CLAIMS[name]}")
        self._db.executescript(_SCHEMA)
        self._db.execute("INSERT OR IGNORE INTO facts VALUES ('version', ?)", (str(VERSION),))
        self._db.commit()

    def _recover(self) -> int:
        # They may have been billed: counted at the most they can have cost.
        done = self._db.execute(
            "UPDATE calls SET status = 'pending', interrupted = interrupted + 1, "
            "cost = cost + reserved, reserved = 0 WHERE status = 'in_flight'"
        )
        self._db.execute("UPDATE calls SET claimed_until = NULL WHERE claimed_until IS NOT NULL")
        self._db.commit()
        return done.rowcount

    @property
    def spent(self) -> float:
        """What all calls cost so far."""
        return self._costs()[0]

    @property
    def reserved(self) -> float:
        """The most that calls in flight can cost."""
        return self._costs()[1]

    def _costs(self) -> tuple[float, float]:
        with self._lock:
            return self._sums()

    def _sums(self) -> tuple[float, float]:
        sums = "SELECT coalesce(sum(cost), 0.0), coalesce(sum(reserved), 0.0) FROM calls"
        spent, reserved = self._db.execute(sums).fetchone()
        return spent, reserved

    def get(self, keys: Sequence[str]) -> dict[str, sqlite3.Row]:
        """Rows of calls that are settled (done or failed), by key."""
        rows: dict[str, sqlite3.Row] = {}
        with self._lock:
            for first in range(0, len(keys), 500):
                some = keys[first : first + 500]
                marks = ",".join("?" * len(some))
                settled = self._db.execute(
                    f"SELECT * FROM calls WHERE status IN ('done', 'failed') AND key IN ({marks})", some
                )
                rows |= {row["key"]: row for row in settled}
        return rows

    def by_content(self, content: str) -> list[sqlite3.Row]:
        """Settled calls of equal content, of any model and sampling."""
        with self._lock:
            return self._db.execute(
                "SELECT * FROM calls WHERE status IN ('done', 'failed') AND content = ? ORDER BY key", (content,)
            ).fetchall()

    def models(self) -> list[str]:
        """Models that were asked."""
        with self._lock:
            return [row[0] for row in self._db.execute("SELECT DISTINCT model FROM calls ORDER BY model")]

    def calls(self) -> Iterator[sqlite3.Row]:
        """Every call, by key; the ledger may be written meanwhile."""
        key = ""
        while True:
            with self._lock:
                rows = self._db.execute("SELECT * FROM calls WHERE key > ? ORDER BY key LIMIT 500", (key,)).fetchall()
            if not rows:
                return
            yield from rows
            key = rows[-1]["key"]

    def counts(self, prompt_version: str | None = None) -> dict[str, int]:
        """Rows by status, `calls` that were sent, and how many of them a process died on (`interrupted`).

        Args:
            prompt_version: of the rows that are counted; None counts all but what servers were probed with.
        """
        where, arguments = "prompt_version NOT LIKE 'probe-%'", []
        if prompt_version is not None:
            where, arguments = "prompt_version = ?", [prompt_version]
        with self._lock:
            rows = self._db.execute(
                f"SELECT status, count(*), sum(attempts), sum(interrupted) FROM calls WHERE {where} GROUP BY status",
                arguments,
            ).fetchall()
        by_status = {row[0]: row[1] for row in rows}
        return {**by_status, "calls": sum(row[2] for row in rows), "interrupted": sum(row[3] for row in rows)}

    def write(self, entries: Iterable[Begin | End]) -> list[WriteResult | Exception]:
        """Write in one transaction; returns once it is on disk.

        Returns:
            What became of each entry; an error is that entry's alone.

        Raises:
            OSError: the disk is full, or the file cannot be written.
        """
        try:
            with self._lock, self._db:
                self._db.execute("BEGIN IMMEDIATE")
                return [self._one(entry) for entry in entries]
        except sqlite3.OperationalError as error:
            raise OSError(f"{self.path}: cannot be written ({error}); what was written stays") from error

    def _one(self, entry: Begin | End) -> WriteResult | Exception:
        self._db.execute("SAVEPOINT entry")
        try:
            return self._begin(entry) if isinstance(entry, Begin) else self._end(entry)
        except UNSTORABLE as error:
            self._db.execute("ROLLBACK TO entry")
            return error
        finally:
            self._db.execute("RELEASE entry")

    def _begin(self, call: Begin) -> WriteResult:
        now = time.time()
        row = self._db.execute(
            "SELECT status, owner, claimed_until, settled_at FROM calls WHERE key = ?", (call.key,)
        ).fetchone()
        if row is not None and row["status"] == "done":
            return "taken"
        if row is not None and row["owner"] not in (None, self.owner):
            failed_since = row["status"] == "failed" and (row["settled_at"] or 0) >= self.opened
            if failed_since or (row["claimed_until"] or 0) > now:
                return "taken"
        if call.budget is not None and sum(self._sums()) + call.reserved > call.budget:
            flying = self._db.execute(
                "SELECT 1 FROM calls WHERE status = 'in_flight' AND claimed_until > ? LIMIT 1", (now,)
            ).fetchone()
            return "over" if flying is None else "wait"
        # One that is in flight still was given up by its process: it may have been billed.
        self._db.execute(
            "INSERT INTO calls (key, content, model, sampling, prompt_version, image, messages, form, reserved, "
            "status, attempts, owner, claimed_until) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'in_flight', 1, ?, ?) "
            "ON CONFLICT (key) DO UPDATE SET interrupted = interrupted + (status = 'in_flight'), "
            "cost = cost + CASE status WHEN 'in_flight' THEN reserved ELSE 0 END, status = 'in_flight', "
            "attempts = attempts + 1, form = excluded.form, reserved = excluded.reserved, owner = excluded.owner, "
            "claimed_until = excluded.claimed_until",
            (call.key, call.content, call.model, call.sampling, call.prompt_version, call.image, call.messages,
             call.form, call.reserved, self.owner, now + call.lease),
        )  # fmt: skip
        return "written"

    def _end(self, call: End) -> WriteResult:
        now, again = time.time(), call.status is None
        spent = (call.prompt_tokens, call.completion_tokens, call.cost, call.key)
        self._db.execute(
            "UPDATE calls SET prompt_tokens = prompt_tokens + ?, completion_tokens = completion_tokens + ?, "
            "cost = cost + ? WHERE key = ?", spent,
        )  # fmt: skip
        # Where the claim ended before the reply came, the call is another process's by now.
        self._db.execute(
            "UPDATE calls SET status = ?, reason = ?, raw = ?, parsed = ?, reserved = 0, seconds = ?, served_by = ?, "
            "tries = CASE WHEN ? THEN json_insert(tries, '$[#]', ?) ELSE tries END, claimed_until = ?, "
            "settled_at = ?, finished = strftime('%Y-%m-%dT%H:%M:%SZ') WHERE key = ? AND owner = ?",
            (call.status or "pending", call.reason, call.raw, call.parsed, call.seconds, call.served_by, again,
             call.reason, now + call.lease if again else None, None if again else now, call.key, self.owner),
        )  # fmt: skip
        return "written"

    def taken(self, key: str) -> bool:
        """Whether another process has a claim on this call."""
        with self._lock:
            return (
                self._db.execute(
                    "SELECT 1 FROM calls WHERE key = ? AND owner != ? AND claimed_until > ?",
                    (key, self.owner, time.time()),
                ).fetchone()
                is not None
            )

    def release(self, key: str) -> None:
        """Give up the claim on a call that will not be tried again here."""
        with self._lock, self._db:
            self._db.execute(
                "UPDATE calls SET claimed_until = NULL WHERE key = ? AND owner = ? AND status = 'pending'",
                (key, self.owner),
            )

    def fact(self, name: str) -> str | None:
        """Something remembered by name."""
        with self._lock:
            row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def remember(self, name: str, value: str) -> None:
        """Something to be remembered by name; see `fact`."""
        with self._lock, self._db:
            self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def answers(self, key: str) -> list[Any] | None:
        """Answers of a responder that were stored under `key`; None where there are none."""
        with self._lock:
            row = self._db.execute("SELECT answers FROM answers WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def store_answers(self, key: str, answers: list[Any]) -> None:
        """Store answers of a responder under `key`: see `answers`."""
        with self._lock, self._db:
            self._db.execute(
                "INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, json.dumps(answers, ensure_ascii=False))
            )

    def close(self) -> None:
        """Close the file, so that the next who opens it is the first."""
        self._db.close()
        self._leave()
        if _open.get(str(self.path.absolute())) is self:
            del _open[str(self.path.absolute())]

    def _leave(self) -> None:
        if self._share is not None:
            self._share.close()


_open: WeakValueDictionary[str, Ledger] = WeakValueDictionary()


def open_ledger(path: Path) -> Ledger:
    """The ledger at `path`: annotator, judge and responder of one process share it."""
    name = str(path.absolute())
    ledger = _open.get(name)
    if ledger is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        ledger = _open[name] = Ledger(path)
    return ledger


def _share(path: Path) -> Share:
    try:
        return Share(path.with_name(f"{path.name}.lock"))
    except OSError as error:
        if error.errno is not None:  # cannot be made, no locks there
            raise
        raise LedgerError(
            f"{path}: another process writes this ledger ({error}); wait for it, or name another file (ledger=…)"
        ) from None
