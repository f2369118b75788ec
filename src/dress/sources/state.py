"""What an unfinished import knows, in one SQLite file: its rows, which of them belong together, which can be used.

Every change is one transaction: after a SIGKILL the import goes on where it stood and gives the same bytes.
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
from dress.sources.rows import Fault, Row

_SCHEMA = """
CREATE TABLE import(fingerprint TEXT);
CREATE TABLE tables(id INTEGER PRIMARY KEY, number INTEGER DEFAULT 0, rows INTEGER DEFAULT 0, done INTEGER DEFAULT 0);
CREATE TABLE rows(id INTEGER PRIMARY KEY, tbl INTEGER, number INTEGER, data BLOB, reason TEXT, detail TEXT);
CREATE TABLE images(name TEXT PRIMARY KEY, data BLOB);
CREATE TABLE groups(
  id INTEGER PRIMARY KEY, name TEXT UNIQUE, image TEXT, key TEXT, publishers INTEGER, split TEXT, test INTEGER,
  state TEXT DEFAULT 'new', bytes INTEGER, sha256 TEXT, place BLOB,
  training TEXT, evaluation TEXT, held_out INTEGER DEFAULT 0);
CREATE TABLE parts(grp INTEGER, row INTEGER, hash BLOB UNIQUE);
CREATE INDEX parts_of_group ON parts(grp, row);
CREATE INDEX parts_of_row ON parts(row);
CREATE INDEX new_groups ON groups(state, id);
CREATE UNIQUE INDEX keys ON groups(coalesce(split, ''), key) WHERE state = 'good';
CREATE TABLE counts(word TEXT PRIMARY KEY, number INTEGER) WITHOUT ROWID;
"""
_IN_SPLIT = "state = 'good' AND CASE WHEN held_out THEN evaluation ELSE training END LIKE '%,' || ? || ',%'"


class Entry(NamedTuple):
    """What decides where a part belongs. `publishers`: the source gave the key; `test`: its row is of a test split."""

    group: str
    image: str | None
    key: str
    publishers: bool
    split: str | None
    test: bool
    hash: bytes


class Group(NamedTuple):
    """A record to be: its name, its key as far as it is known, the checksum of its image, and its rows' ids."""

    id: int
    name: str
    key: str
    sha256: str | None
    rows: tuple[int, ...]


class Folders(NamedTuple):
    """The split folders that a record is written to: as one for training, or held out."""

    training: tuple[str, ...]
    evaluation: tuple[str, ...]


class GroupResult(NamedTuple):
    """What the check of a group gave; its image's size (-1: not there; None: no image) and sha256."""

    result: Folders | Fault
    bytes: int | None = None
    sha256: str | None = None


class ImageFacts(NamedTuple):
    """What a look at an image's file gave: its size in bytes (-1: not there), sha256, whether it moves, its fault."""

    size: int
    sha256: str | None = None
    animated: bool = False
    fault: Fault | None = None


def storable(text: str) -> str:
    """SQLite holds no half of a surrogate pair."""
    return text.encode(errors="backslashreplace").decode()


class Database:
    """Opens a file, or makes it anew where it is of another import or damaged.

    Raises:
        ValueError: another program holds it.
    """

    schema: str

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        try:
            self._connect()
            earlier = self._one("SELECT fingerprint FROM import")
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorname.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                raise ValueError(f"{path}: expected a file that no other program holds, got {error}") from None
            earlier = None
        self.resumed = earlier == fingerprint
        if not self.resumed:
            self.delete()
            self._connect()
            self._db.executescript(self.schema)
            with self._db:
                self._db.execute("INSERT INTO import VALUES (?)", (fingerprint,))

    def _connect(self) -> None:
        self._db = sqlite3.connect(self.path)
        for setting in ("journal_mode = WAL", "synchronous = NORMAL", "cache_size = -32000", "temp_store = FILE"):
            self._db.execute(f"PRAGMA {setting}")

    def _one(self, query: str, *values: object) -> object:
        """The first column of the first row; None where there is none."""
        return next(iter(self._db.execute(query, values).fetchone() or (None,)))

    def _count(self, query: str, *values: object) -> int:
        return int(str(self._one(query, *values)))

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def delete(self) -> None:
        """Close the file and remove it."""
        self.close()
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    def last_row(self, table: int) -> int | None:
        """Number of the last row of a table that was entered (0: none); None where all were."""
        number, done = self._db.execute("SELECT number, done FROM tables WHERE id = ?", (table,)).fetchone() or (0, 0)
        return None if done else number

    def add_images(self, row: Row) -> Row:
        """Enter the images that a row's file holds; the row without them."""
        if row.images:
            with self._db:
                self._db.executemany("INSERT OR IGNORE INTO images VALUES (?, ?)", row.images)
        return row._replace(images=())


class State(Database):
    """What an import knows."""

    schema = _SCHEMA

    # --- rows ---

    def add_image_names(self, names: Iterable[str]) -> None:
        """Enter images that files of parts hold."""
        with self._db:
            self._db.executemany("INSERT OR IGNORE INTO images VALUES (?, NULL)", ((name,) for name in names))

    def add(self, table: int, rows: Sequence[Row], results: Sequence[list[Entry] | Fault], done: bool = False) -> None:
        """Enter rows of a table, in order, with what each says; a row that stands there already is rejected."""
        with self._db:
            self._db.execute("INSERT OR IGNORE INTO tables(id) VALUES (?)", (table,))
            for row, result in zip(rows, results, strict=True):
                insert = "INSERT INTO rows(tbl, number, data) VALUES (?, ?, ?)"
                id_ = self._db.execute(insert, (table, row.number, row.data)).lastrowid or 0
                fault = result if isinstance(result, Fault) else self._enter(id_, result)
                if fault:
                    self._db.execute("DELETE FROM parts WHERE row = ?", (id_,))
                    self._reject([id_], fault)
            update = "UPDATE tables SET number = max(number, ?), rows = rows + ?, done = ? WHERE id = ?"
            self._db.execute(update, (rows[-1].number if rows else 0, len(rows), done, table))

    def _enter(self, row: int, entries: list[Entry]) -> Fault | None:
        for entry in entries:
            group, image = self._db.execute(
                "INSERT INTO groups(name, image, key, publishers, split, test) VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT(name) DO UPDATE SET image = coalesce(image, excluded.image), "
                "key = CASE WHEN excluded.publishers > publishers THEN excluded.key ELSE key END, "
                "publishers = max(publishers, excluded.publishers), test = max(test, excluded.test) "
                "RETURNING id, image",
                entry[:-1],
            ).fetchone()
            if entry.image not in (None, image):
                return Fault("two images", f"expected {image}, which a row above names, got {entry.image}")
            insert = "INSERT OR IGNORE INTO parts VALUES (?, ?, ?)"
            if not self._db.execute(insert, (group, row, entry.hash)).rowcount:
                same = "SELECT number FROM parts JOIN rows ON rows.id = parts.row WHERE hash = ?"
                number = self._one(same, entry.hash)
                return Fault("duplicate row", f"{entry.image or entry.key}: row {number} says the same")
        return None

    def _reject(self, rows: Sequence[int], fault: Fault) -> None:
        detail = storable(fault.detail)
        update = "UPDATE rows SET reason = ?, detail = ? WHERE id = ? AND reason IS NULL"
        self._db.executemany(update, [(fault.reason, detail, row) for row in rows])

    # --- groups ---

    def prune(self) -> None:
        """Forget groups all of whose rows were rejected."""
        with self._db:
            self._db.execute("DELETE FROM groups WHERE id NOT IN (SELECT grp FROM parts)")

    def new_groups(self, at_once: int) -> Iterator[list[Group]]:
        """Groups that nobody checked yet, a list at a time, in order of first appearance."""
        return self._groups("state = ?", "new", at_once)

    def plan(self, split: str, at_once: int) -> Iterator[list[Group]]:
        """The groups that a split holds, a shard at a time."""
        return self._groups(_IN_SPLIT, split, at_once)

    def _groups(self, where: str, value: str, at_once: int) -> Iterator[list[Group]]:
        last = 0
        query = (
            "SELECT DISTINCT g.id, g.name, g.key, g.sha256, p.row FROM "
            f"(SELECT * FROM groups WHERE {where} AND id > ? ORDER BY id LIMIT ?) g "
            "JOIN parts p ON p.grp = g.id ORDER BY g.id, p.row"
        )
        while members := self._db.execute(query, (value, last, at_once)).fetchall():
            groups = [
                Group(id_, name, key, sha256, tuple(member[-1] for member in same))
                for (id_, name, key, sha256), same in groupby(members, itemgetter(0, 1, 2, 3))
            ]
            yield groups
            last = groups[-1].id

    def number(self, state: str) -> int:
        """Of groups in a state: new, good or rejected."""
        return self._count("SELECT count(*) FROM groups WHERE state = ?", state)

    def planned(self, split: str) -> int:
        """How many records a split will hold."""
        return self._count(f"SELECT count(*) FROM groups WHERE {_IN_SPLIT}", split)

    def checked(self, groups: Sequence[Group], results: Sequence[GroupResult], words: dict[str, int]) -> None:
        """Enter what the check of groups gave; a good one gets its key."""
        with self._db:
            for group, (result, size, sha256) in zip(groups, results, strict=True):
                self._db.execute("UPDATE groups SET bytes = ?, sha256 = ? WHERE id = ?", (size, sha256, group.id))
                fault = result if isinstance(result, Fault) else self._accept(group, result)
                if fault:
                    self._db.execute("UPDATE groups SET state = 'rejected' WHERE id = ?", (group.id,))
                    self._reject(group.rows, fault)
            self._db.executemany(
                "INSERT INTO counts VALUES (?, ?) ON CONFLICT(word) DO UPDATE SET number = number + excluded.number",
                words.items(),
            )

    def _accept(self, group: Group, folders: Folders) -> Fault | None:
        select = "SELECT image, key, publishers FROM groups WHERE id = ?"
        image, key, publishers = self._db.execute(select, (group.id,)).fetchone()
        place = hashlib.sha256(PurePosixPath(image).name.encode()).digest() if image else None
        training, evaluation = (f",{','.join(splits)}," for splits in folders)
        for candidate in (key,) if publishers else (key, distinct(key, group.name)):
            columns = "state = 'good', key = ?, place = ?, training = ?, evaluation = ?"
            update = f"UPDATE OR IGNORE groups SET {columns} WHERE id = ?"
            if self._db.execute(update, (candidate, place, training, evaluation, group.id)).rowcount:
                return None
        return Fault("key taken", f"{image or group.name}: another image has the key {key} already")

    def hold_out(self, at_most: int, one_in: int) -> None:
        """Mark the images of test splits, and of the others those whose names have the smallest hashes.

        So which they are does not depend on the order of rows.
        """
        eligible = "state = 'good' AND evaluation != ',,' AND place IS NOT NULL AND split IS NULL AND NOT test"
        total = self._count(f"SELECT count(*) FROM groups WHERE {eligible}")
        chosen = f"SELECT id FROM groups WHERE {eligible} ORDER BY place, id LIMIT ?"
        with self._db:
            self._db.execute(
                f"UPDATE groups SET held_out = 1 WHERE test AND split IS NULL OR id IN ({chosen})",
                (min(at_most, max(total // one_in, int(total > 1))),),
            )

    def counts(self) -> dict[str, int]:
        """How often each word was counted over all good records."""
        return dict(self._db.execute("SELECT word, number FROM counts ORDER BY word"))

    def images(self) -> Iterator[tuple[str, int]]:
        """Every image that rows name, in order of first appearance, with its size in bytes (-1: not there)."""
        own = "image IS NOT NULL AND image NOT IN (SELECT name FROM images)"
        yield from self._db.execute(f"SELECT image, bytes FROM groups WHERE {own} ORDER BY id")

    # --- rejects ---

    def rows(self) -> int:
        """Rows read."""
        return self._count("SELECT coalesce(sum(rows), 0) FROM tables")

    def reasons(self) -> dict[str, int]:
        """How many rows were rejected, by reason, the most frequent first."""
        where = "WHERE reason IS NOT NULL GROUP BY reason ORDER BY 2 DESC, min(id)"
        return dict(self._db.execute(f"SELECT reason, count(*) FROM rows {where}"))

    def rejects(self) -> Iterator[tuple[int, Row]]:
        """Rejected rows in order, each with its table and the fault."""
        columns = "tbl, number, data, reason, detail"
        for table, number, data, *fault in self._db.execute(
            f"SELECT {columns} FROM rows WHERE reason IS NOT NULL ORDER BY id"
        ):
            yield table, Row(number, data, Fault(*fault))


class Reader:
    """What workers read of it, while the import writes, and of the files of parts."""

    def __init__(self, path: Path, parts: Sequence[Path] = ()) -> None:
        self._db, *self._parts = (
            sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True) for file in (path, *parts)
        )

    def close(self) -> None:
        """Let go of the files."""
        for db in (self._db, *self._parts):
            db.close()

    def row(self, row: int) -> tuple[int, Row]:
        """A row by its id, with its table."""
        select = "SELECT tbl, number, data FROM rows WHERE id = ?"
        table, number, data = self._db.execute(select, (row,)).fetchone()
        return table, Row(number, data)

    def size(self, rows: Sequence[int]) -> int:
        """Bytes of rows."""
        select = "SELECT length(data) FROM rows WHERE id = ?"
        return sum(self._db.execute(select, (row,)).fetchone()[0] for row in rows)

    def image(self, name: str) -> bytes | None:
        """An image that a row's file holds."""
        for db in (self._db, *self._parts):
            row = db.execute("SELECT data FROM images WHERE name = ?", (name,)).fetchone()
            if row is None and db is self._db:
                return None
            if row is not None and row[0] is not None:
                return bytes(row[0])
        return None

    def facts(self, name: str) -> ImageFacts | None:
        """What parts saw of an image; None where they saw different things, or nothing."""
        select = "SELECT size, sha256, animated, reason, detail FROM facts WHERE name = ?"
        rows = {row for db in self._parts if (row := db.execute(select, (name,)).fetchone()) is not None}
        if len(rows) != 1:
            return None
        size, sha256, moving, *fault = rows.pop()
        return ImageFacts(size, sha256, bool(moving), None if fault[0] is None else Fault(*fault))
