"""What a part of an import knows, in one SQLite file: its rows with what each says, and what its images are.

The merge reads rows of all parts in the order of the input, so that it enters what one process would have entered.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from heapq import merge
from pathlib import Path

from dress.sources.rows import Fault, Row
from dress.sources.state import Database, Entry, ImageFacts, storable

Result = list[Entry] | Fault
"""What a row says."""
_SCHEMA = """
CREATE TABLE import(fingerprint TEXT);
CREATE TABLE tables(id INTEGER PRIMARY KEY, number INTEGER DEFAULT 0, done INTEGER DEFAULT 0);
CREATE TABLE rows(
  id INTEGER PRIMARY KEY, tbl INTEGER, number INTEGER, data BLOB, entries TEXT, reason TEXT, detail TEXT);
CREATE UNIQUE INDEX places ON rows(tbl, number);
CREATE TABLE images(name TEXT PRIMARY KEY, data BLOB);
CREATE TABLE facts(
  id INTEGER PRIMARY KEY, name TEXT UNIQUE, size INTEGER, sha256 TEXT, animated INTEGER, reason TEXT, detail TEXT);
"""


class PartRows(Database):
    """A part that is made."""

    schema = _SCHEMA

    def add(self, table: int, rows: Sequence[Row], results: Sequence[Result], done: bool = False) -> None:
        """Enter rows of a table, in order, with what each says, and the names of their images."""
        with self._db:
            self._db.execute("INSERT OR IGNORE INTO tables(id) VALUES (?)", (table,))
            for row, result in zip(rows, results, strict=True):
                entries, reason, detail = None, None, None
                if isinstance(result, Fault):
                    reason, detail = result.reason, storable(result.detail)
                else:
                    entries = json.dumps([[*entry[:-1], entry.hash.hex()] for entry in result])
                    names = [(entry.image,) for entry in result if entry.image is not None]
                    self._db.executemany("INSERT OR IGNORE INTO facts(name) VALUES (?)", names)
                values = (table, row.number, row.data, entries, reason, detail)
                insert = "INSERT INTO rows(tbl, number, data, entries, reason, detail) VALUES (?, ?, ?, ?, ?, ?)"
                self._db.execute(insert, values)
            update = "UPDATE tables SET number = max(number, ?), done = ? WHERE id = ?"
            self._db.execute(update, (rows[-1].number if rows else 0, done, table))

    def unseen(self, at_once: int) -> Iterator[list[str]]:
        """Names of images that nobody looked at yet, a list at a time, in order of first appearance."""
        last = 0
        select = "SELECT id, name FROM facts WHERE size IS NULL AND id > ? ORDER BY id LIMIT ?"
        while rows := self._db.execute(select, (last, at_once)).fetchall():
            yield [name for _, name in rows]
            last = rows[-1][0]

    def seen(self, names: Sequence[str], facts: Sequence[ImageFacts]) -> None:
        """Enter what a look at images gave."""
        rows = [
            (one.size, one.sha256, one.animated, *((None, None) if one.fault is None else
             (one.fault.reason, storable(one.fault.detail))), name)
            for name, one in zip(names, facts, strict=True)
        ]  # fmt: skip
        with self._db:
            update = "UPDATE facts SET size = ?, sha256 = ?, animated = ?, reason = ?, detail = ? WHERE name = ?"
            self._db.executemany(update, rows)

    def counts(self) -> dict[str, int]:
        """Rows, those of them that cannot be used, and images."""
        queries = {
            "rows": "SELECT count(*) FROM rows", "rejected": "SELECT count(*) FROM rows WHERE reason IS NOT NULL",
            "images": "SELECT count(*) FROM facts", "unseen": "SELECT count(*) FROM facts WHERE size IS NULL",
        }  # fmt: skip
        return {name: self._count(query) for name, query in queries.items()}

    def close(self) -> None:
        """Let go of the file, which is then all there is of it."""
        self._db.execute("PRAGMA journal_mode = DELETE")
        super().close()


class PartReader:
    """Finished parts."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._dbs = [sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True) for file in files]

    def rows(self, table: int, after: int) -> Iterator[tuple[Row, Result]]:
        """The rows of a table behind the one of that number, in order, each with what it says."""
        for number, data, entries, *fault in merge(*(_rows(db, table, after) for db in self._dbs)):
            yield Row(number, data), Fault(*fault) if entries is None else _entries(entries)

    def image_names(self) -> Iterator[str]:
        """The images that row files hold themselves."""
        for db in self._dbs:
            yield from (name for (name,) in db.execute("SELECT name FROM images"))

    def close(self) -> None:
        """Let go of the files."""
        for db in self._dbs:
            db.close()


def _rows(db: sqlite3.Connection, table: int, after: int) -> sqlite3.Cursor:
    columns = "number, data, entries, reason, detail"
    return db.execute(f"SELECT {columns} FROM rows WHERE tbl = ? AND number > ? ORDER BY number", (table, after))


def _entries(text: str) -> list[Entry]:
    return [
        Entry(group, image, key, bool(publishers), split, bool(test), bytes.fromhex(digest))
        for group, image, key, publishers, split, test, digest in json.loads(text)
    ]
