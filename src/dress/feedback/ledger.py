"""The ledger: one SQLite file in which every call to a language model stands, keyed by its content.

A call is written down before it is sent and again when its reply is there, both synced to disk, so that
a killed process loses no reply and its unanswered calls are known. Only one process writes a ledger.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from filelock import FileLock, Timeout

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
  reason TEXT,                     -- of a failure
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
  finished TEXT                    -- time
);
CREATE INDEX IF NOT EXISTS calls_by_content ON calls (content);
"""


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


@dataclass(frozen=True)
class End:
    """A call that came back. `status` None: it will be tried again, and `reason` joins the tries."""

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


class Ledger:
    """An open ledger.

    Args:
        path: of the file; made where it is missing.
        readonly: only look; other processes may write meanwhile.

    Raises:
        LedgerError: another process writes it, or it is no ledger of this version.
        FileNotFoundError: none there to be read.
    """

    def __init__(self, path: Path, readonly: bool = False) -> None:
        self.path, self.readonly = path, readonly
        if readonly and not path.is_file():
            raise FileNotFoundError(f"{path}: expected a ledger, found none")
        self._lock, self._file_lock = threading.Lock(), None if readonly else _only_one(path)
        try:
            self._db = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={'ro' if readonly else 'rwc'}", uri=True, check_same_thread=False
            )
            self._db.row_factory = sqlite3.Row
            if not readonly:
                self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;")
                self._db.executescript(_SCHEMA)
                self._db.execute("INSERT OR IGNORE INTO facts VALUES ('version', ?)", (str(VERSION),))
                self._db.commit()
            found = self.fact("version")
        except sqlite3.DatabaseError as error:
            raise LedgerError(f"{path}: expected a ledger (SQLite), got something else ({error})") from None
        if found != str(VERSION):
            raise LedgerError(f"{path}: expected a ledger of version {VERSION}, got {found}")
        self.interrupted = 0 if readonly else self._recover()
        """Calls that were in flight when an earlier process died, found just now."""
        self.spent: float = self._db.execute("SELECT coalesce(sum(cost), 0) FROM calls").fetchone()[0]
        """What all calls cost so far."""
        self.reserved = 0.0
        """The most that calls in flight can cost."""

    def _recover(self) -> int:
        # They may have been billed: counted at the most they can have cost.
        done = self._db.execute(
            "UPDATE calls SET status = 'pending', interrupted = interrupted + 1, "
            "cost = cost + reserved, reserved = 0 WHERE status = 'in_flight'"
        )
        self._db.commit()
        return done.rowcount

    def get(self, keys: Sequence[str]) -> dict[str, sqlite3.Row]:
        """Rows of calls that are settled (done or failed), by key."""
        rows: dict[str, sqlite3.Row] = {}
        with self._lock:
            for first in range(0, len(keys), 500):
                some = keys[first : first + 500]
                marks = ",".join("?" * len(some))
                found = self._db.execute(
                    f"SELECT * FROM calls WHERE status IN ('done', 'failed') AND key IN ({marks})", some
                )
                rows |= {row["key"]: row for row in found}
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
        """Every call, by key."""
        with self._lock:
            yield from self._db.execute("SELECT * FROM calls ORDER BY key").fetchall()

    def counts(self, prompt_version: str | None = None) -> dict[str, int]:
        """Rows by status, `calls` that were sent, and how many of them a process died on (`interrupted`).

        Args:
            prompt_version: of the rows that are counted; None counts all but what servers were probed with.
        """
        where, given = "prompt_version NOT LIKE 'probe-%'", []
        if prompt_version is not None:
            where, given = "prompt_version = ?", [prompt_version]
        with self._lock:
            rows = self._db.execute(
                f"SELECT status, count(*), sum(attempts), sum(interrupted) FROM calls WHERE {where} GROUP BY status",
                given,
            ).fetchall()
        by_status = {row[0]: row[1] for row in rows}
        return {**by_status, "calls": sum(row[2] for row in rows), "interrupted": sum(row[3] for row in rows)}

    def write(self, entries: Iterable[Begin | End]) -> None:
        """Write in one transaction; returns once it is on disk.

        Raises:
            OSError: the disk is full, or the file cannot be written.
        """
        try:
            with self._lock, self._db:
                for entry in entries:
                    if isinstance(entry, Begin):
                        self._begin(entry)
                    else:
                        self._end(entry)
                        self.spent += entry.cost
        except sqlite3.OperationalError as error:
            raise OSError(f"{self.path}: cannot be written ({error}); what was written stays") from error

    def _begin(self, call: Begin) -> None:
        self._db.execute(
            "INSERT INTO calls (key, content, model, sampling, prompt_version, image, messages, form, reserved, "
            "status, attempts) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'in_flight', 1) ON CONFLICT (key) DO UPDATE SET "
            "status = 'in_flight', attempts = attempts + 1, form = excluded.form, reserved = excluded.reserved",
            (call.key, call.content, call.model, call.sampling, call.prompt_version, call.image, call.messages,
             call.form, call.reserved),
        )  # fmt: skip

    def _end(self, call: End) -> None:
        again = call.status is None
        self._db.execute(
            "UPDATE calls SET status = ?, reason = ?, raw = ?, parsed = ?, prompt_tokens = prompt_tokens + ?, "
            "completion_tokens = completion_tokens + ?, cost = cost + ?, reserved = 0, seconds = ?, served_by = ?, "
            "tries = CASE WHEN ? THEN json_insert(tries, '$[#]', ?) ELSE tries END, "
            "finished = strftime('%Y-%m-%dT%H:%M:%SZ') WHERE key = ?",
            (call.status or "pending", call.reason, call.raw, call.parsed, call.prompt_tokens,
             call.completion_tokens, call.cost, call.seconds, call.served_by, again, call.reason, call.key),
        )  # fmt: skip

    def fact(self, name: str) -> str | None:
        """Something remembered by name."""
        with self._lock:
            row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def remember(self, name: str, value: str) -> None:
        with self._lock, self._db:
            self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def answers(self, key: str) -> list[Any] | None:
        """Answers of a responder that were kept under `key`."""
        with self._lock:
            row = self._db.execute("SELECT answers FROM answers WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def keep_answers(self, key: str, answers: list[Any]) -> None:
        with self._lock, self._db:
            self._db.execute(
                "INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, json.dumps(answers, ensure_ascii=False))
            )

    def close(self) -> None:
        self._db.close()
        if self._file_lock is not None:
            self._file_lock.release()
        _open.pop(str(self.path.absolute()), None)


_open: WeakValueDictionary[str, Ledger] = WeakValueDictionary()


def open_ledger(path: Path) -> Ledger:
    """The ledger at `path`: annotator, judge and responder of one process share it."""
    name = str(path.absolute())
    ledger = _open.get(name)
    if ledger is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        ledger = _open[name] = Ledger(path)
    return ledger


def _only_one(path: Path) -> FileLock:
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise LedgerError(
            f"{path}: another process writes this ledger; wait for it, or name another file (ledger=…)"
        ) from None
    return lock
