"""What an unfinished import knows, in one SQLite file: which rows belong together, and what is done.

It holds places of rows, never their text, so that it stays small beside its input. Every change is one
transaction: after a SIGKILL the import goes on where it stood and gives the same bytes.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from dress.sources.merging import distinct
from dress.sources.ranges import Range

_SCHEMA = """
CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE tables(id INTEGER PRIMARY KEY, number INTEGER, position INTEGER, read INTEGER, done INTEGER);
CREATE TABLE groups(
  id INTEGER PRIMARY KEY, name TEXT UNIQUE, image TEXT, key TEXT, given INTEGER, split TEXT,
  state TEXT DEFAULT 'new', bytes INTEGER, sha256 TEXT, place BLOB, taught TEXT, held TEXT, held_out INTEGER DEFAULT 0);
CREATE TABLE parts(
  id INTEGER PRIMARY KEY, grp INTEGER, tbl INTEGER, number INTEGER, position INTEGER, size INTEGER, hash BLOB UNIQUE);
CREATE INDEX parts_of_group ON parts(grp);
CREATE INDEX new_groups ON groups(state, id);
CREATE TABLE rejects(
  tbl INTEGER, number INTEGER, position INTEGER, size INTEGER, fault TEXT, reason TEXT, detail TEXT,
  PRIMARY KEY(tbl, number)) WITHOUT ROWID;
CREATE TABLE keys(split TEXT, key TEXT, PRIMARY KEY(split, key)) WITHOUT ROWID;
CREATE TABLE counts(word TEXT PRIMARY KEY, number INTEGER) WITHOUT ROWID;
CREATE TABLE shards(split TEXT, number INTEGER, sha256 TEXT, records INTEGER, PRIMARY KEY(split, number)) WITHOUT ROWID;
"""
_IN_SPLIT = "state = 'good' AND CASE WHEN held_out THEN held ELSE taught END LIKE ?"


class RowAt(NamedTuple):
    """Where a row of a group stands."""

    table: int
    number: int
    offset: int
    size: int


class Group(NamedTuple):
    """A record to be: its rows, in order, and what is known of it."""

    id: int
    name: str
    key: str
    sha256: str | None
    rows: list[RowAt]


class Found(NamedTuple):
    """A part, as far as it decides what belongs together. `given`: the source gave the key."""

    group: str
    image: str | None
    key: str
    given: bool
    split: str | None
    hash: bytes


class Fault(NamedTuple):
    """Why a row, or all rows of a group, cannot be used."""

    reason: str
    detail: str


class Good(NamedTuple):
    """A record that can be written, and to which folders: as one of those taught, or held out."""

    taught: tuple[str, ...]
    held: tuple[str, ...]


class Checked(NamedTuple):
    """A group whose image was looked at: its size (-1: not there; None: no image) and sha256."""

    result: Good | Fault
    bytes: int | None = None
    sha256: str | None = None


class Spool:
    """Opens the file, or makes it anew where it is of another import or damaged."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        try:
            self._connect()
            known = self._db.execute("SELECT value FROM meta WHERE name = 'fingerprint'").fetchone()
        except sqlite3.DatabaseError:
            known = None
        self.resumed = known == (fingerprint,)
        if not self.resumed:
            self.delete()
            self._connect()
            self._db.executescript(_SCHEMA)
            with self._db:
                self._db.execute("INSERT INTO meta VALUES ('fingerprint', ?)", (fingerprint,))

    def _connect(self) -> None:
        self._db = sqlite3.connect(self.path)
        for setting in ("journal_mode = WAL", "synchronous = NORMAL", "cache_size = -32000", "temp_store = FILE"):
            self._db.execute(f"PRAGMA {setting}")

    def delete(self) -> None:
        """Close the file and remove it."""
        self._db.close()
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    def close(self) -> None:
        self._db.close()

    # --- rows ---

    def after(self, table: int) -> tuple[int, int] | None:
        """Number and end of the last row of a table that is known."""
        found = self._db.execute("SELECT number, position FROM tables WHERE id = ?", (table,)).fetchone()
        return found and (found[0], found[1])

    def done(self, table: int) -> bool:
        return bool(self._db.execute("SELECT 1 FROM tables WHERE id = ? AND done", (table,)).fetchone())

    def add(self, table: int, rows: Sequence[Range], read: Sequence[list[Found] | Fault], last: bool) -> None:
        """Enter rows of a table, in order; a row that stands there already is rejected."""
        with self._db:
            for row, found in zip(rows, read, strict=True):
                fault = found if isinstance(found, Fault) else self._enter(table, row, found)
                if fault:
                    self._reject(RowAt(table, row.number, row.offset, row.size), row.fault, fault)
            self._db.execute("INSERT INTO tables VALUES (?, 0, 0, 0, 0) ON CONFLICT DO NOTHING", (table,))
            if rows:
                end = rows[-1]
                self._db.execute(
                    "UPDATE tables SET number = ?, position = ?, read = read + ? WHERE id = ?",
                    (end.number, end.offset + end.size, len(rows), table),
                )
            self._db.execute("UPDATE tables SET done = ? WHERE id = ?", (last, table))

    def _enter(self, table: int, row: Range, parts: list[Found]) -> Fault | None:
        fault = None
        for entered, part in enumerate(parts):
            fault = self._enter_part(table, row, part)
            if fault:
                last = "SELECT id FROM parts ORDER BY id DESC LIMIT ?"
                self._db.execute(f"DELETE FROM parts WHERE id IN ({last})", (entered,))
                break
        return fault

    def _enter_part(self, table: int, row: Range, part: Found) -> Fault | None:
        group, image = self._db.execute(
            "INSERT INTO groups(name, image, key, given, split) VALUES (?, ?, ?, ?, ?) ON CONFLICT(name) "
            "DO UPDATE SET image = coalesce(image, excluded.image), "
            "key = CASE WHEN excluded.given > given THEN excluded.key ELSE key END, "
            "given = max(given, excluded.given) RETURNING id, image",
            (part.group, part.image, part.key, part.given, part.split),
        ).fetchone()
        if part.image not in (None, image):
            return Fault("two images", f"expected {image}, which a row above names, got {part.image}")
        entered = self._db.execute(
            "INSERT OR IGNORE INTO parts(grp, tbl, number, position, size, hash) VALUES (?, ?, ?, ?, ?, ?)",
            (group, table, row.number, row.offset, row.size, part.hash),
        )
        if entered.rowcount:
            return None
        (number,) = self._db.execute("SELECT number FROM parts WHERE hash = ?", (part.hash,)).fetchone()
        return Fault("duplicate row", f"{part.image or part.key}: row {number} says the same")

    # --- groups ---

    def prune(self) -> None:
        """Forget groups all of whose rows were rejected."""
        with self._db:
            self._db.execute("DELETE FROM groups WHERE id NOT IN (SELECT grp FROM parts)")

    def new_groups(self, at_once: int) -> Iterator[list[Group]]:
        """Groups that nobody checked yet, a list at a time, in order of first appearance."""
        last = 0
        while groups := self._groups("state = 'new' AND id > ? ORDER BY id LIMIT ?", (last, at_once)):
            yield groups
            last = groups[-1].id

    def number(self, state: str | None = None) -> int:
        """Of groups, in a state or in all."""
        where = ("WHERE state = ?", (state,)) if state else ("", ())
        return int(self._db.execute(f"SELECT count(*) FROM groups {where[0]}", where[1]).fetchone()[0])

    def checked(self, groups: Sequence[Group], results: Sequence[Checked], words: dict[str, int]) -> None:
        """Enter what the check of groups found; a good one gets its key."""
        with self._db:
            for group, (found, size, sha256) in zip(groups, results, strict=True):
                looked_at = "UPDATE groups SET bytes = ?, sha256 = ? WHERE id = ?"
                self._db.execute(looked_at, (size, sha256, group.id))
                fault = found if isinstance(found, Fault) else self._accept(group, found)
                if fault:
                    self._db.execute("UPDATE groups SET state = 'rejected' WHERE id = ?", (group.id,))
                    for row in group.rows:
                        self._reject(row, "", fault)
            self._db.executemany(
                "INSERT INTO counts VALUES (?, ?) ON CONFLICT(word) DO UPDATE SET number = number + excluded.number",
                words.items(),
            )

    def _accept(self, group: Group, good: Good) -> Fault | None:
        image, key, given, split = self._db.execute(
            "SELECT image, key, given, coalesce(split, '') FROM groups WHERE id = ?", (group.id,)
        ).fetchone()
        for candidate in (key, distinct(key, group.name)):
            new = self._db.execute("INSERT INTO keys VALUES (?, ?) ON CONFLICT DO NOTHING", (split, candidate))
            if new.rowcount:
                break
            if given:
                return Fault("key taken", f"{image or group.name}: another image has the key {key} already")
        place = hashlib.sha256(PurePosixPath(image).name.encode()).digest() if image else None
        self._db.execute(
            "UPDATE groups SET state = 'good', key = ?, place = ?, taught = ?, held = ? WHERE id = ?",
            (candidate, place, _packed(good.taught), _packed(good.held), group.id),
        )
        return None

    def hold_out(self, at_most: int, one_in: int) -> None:
        """Mark the images whose names have the smallest hashes: which they are does not depend on order."""
        eligible = "state = 'good' AND held != ',' AND place IS NOT NULL AND split IS NULL"
        (total,) = self._db.execute(f"SELECT count(*) FROM groups WHERE {eligible}").fetchone()
        number = min(at_most, max(total // one_in, int(total > 1)))
        with self._db:
            self._db.execute(
                "UPDATE groups SET held_out = 1 WHERE id IN "
                f"(SELECT id FROM groups WHERE {eligible} ORDER BY place, id LIMIT ?)",
                (number,),
            )

    def counts(self) -> dict[str, int]:
        """How often each word was counted over all good records."""
        return dict(self._db.execute("SELECT word, number FROM counts ORDER BY word"))

    # --- shards ---

    def plan(self, split: str, at_once: int) -> Iterator[list[Group]]:
        """The groups that a split holds, a shard at a time."""
        last = 0
        while groups := self._groups(f"{_IN_SPLIT} AND id > ? ORDER BY id LIMIT ?", (f"%,{split},%", last, at_once)):
            yield groups
            last = groups[-1].id

    def planned(self, split: str) -> int:
        """How many records a split will hold."""
        found = self._db.execute(f"SELECT count(*) FROM groups WHERE {_IN_SPLIT}", (f"%,{split},%",))
        return int(found.fetchone()[0])

    def images(self) -> Iterator[tuple[str, int]]:
        """Every image that rows name, in order of first appearance, with its size in bytes (-1: not there)."""
        yield from self._db.execute("SELECT image, bytes FROM groups WHERE image IS NOT NULL ORDER BY id")

    def shards(self, split: str) -> dict[int, tuple[str, int]]:
        """Number of each finished shard to its sha256 and how many records it holds."""
        rows = self._db.execute("SELECT number, sha256, records FROM shards WHERE split = ?", (split,))
        return {number: (sha256, records) for number, sha256, records in rows}

    def shard_done(self, split: str, number: int, sha256: str, records: int) -> None:
        with self._db:
            self._db.execute("INSERT OR REPLACE INTO shards VALUES (?, ?, ?, ?)", (split, number, sha256, records))

    # --- rejects ---

    def read(self) -> int:
        """Rows read."""
        return int(self._db.execute("SELECT coalesce(sum(read), 0) FROM tables").fetchone()[0])

    def reasons(self) -> dict[str, int]:
        """How many rows were rejected, by reason, the most frequent first."""
        order = "ORDER BY 2 DESC, min(tbl), min(number)"
        return dict(self._db.execute(f"SELECT reason, count(*) FROM rejects GROUP BY reason {order}"))

    def rejects(self) -> Iterator[tuple[RowAt, str, Fault]]:
        """Rejected rows in order, what is wrong with their bytes, and why they were rejected."""
        columns = "tbl, number, position, size, fault, reason, detail"
        for *row, fault, reason, detail in self._db.execute(f"SELECT {columns} FROM rejects ORDER BY tbl, number"):
            yield RowAt(*row), fault, Fault(reason, detail)

    def _reject(self, row: RowAt, fault: str, why: Fault) -> None:
        detail = why.detail.encode(errors="backslashreplace").decode()
        self._db.execute(
            "INSERT INTO rejects VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (*row, fault, why.reason, detail),
        )

    def _groups(self, where: str, values: Iterable[object]) -> list[Group]:
        rows = self._db.execute(
            "SELECT g.id, g.name, g.key, g.sha256, p.tbl, p.number, p.position, p.size FROM "
            f"(SELECT * FROM groups WHERE {where}) g JOIN parts p ON p.grp = g.id ORDER BY g.id, p.id",
            tuple(values),
        )
        return [
            Group(id_, name, key, sha256, [RowAt(*row[4:]) for row in members])
            for (id_, name, key, sha256), members in groupby(rows, itemgetter(0, 1, 2, 3))
        ]


def _packed(splits: Sequence[str]) -> str:
    return f",{','.join(splits)},".replace(",,", ",")
