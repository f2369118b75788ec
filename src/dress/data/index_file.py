"""`index.arrow`: where the samples of a folder's shards lie, in one Arrow file that all its readers map into memory.

A row is a shard; its samples are a list of columns, so that no Python object stands for a sample. The file holds its
own checksum, in the schema's metadata, and is checked like any file that others wrote.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import secrets
import struct
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from dress.base.files import write_aside
from dress.data.index import FEATURES, IMAGE_EXTENSIONS, MAX_MEMBER_BYTES, Entry, Format, check_regular

INDEX = "index.arrow"
INDEX_VERSION = 5
MAGIC = b"ARROW1\0\0"
TEXT_EXTENSIONS = ("json", "txt")
"""What a record or a caption is read from; of a sample with both, the `.txt`."""

SAMPLE = pa.struct(
    [
        pa.field(name, kind, nullable=False)
        for name, kind in {
            "key": pa.large_string(),
            "text": pa.uint8(),  # which of TEXT_EXTENSIONS
            "text_at": pa.int64(),
            "text_size": pa.int32(),
            "image": pa.uint8(),  # which of IMAGE_EXTENSIONS
            "image_at": pa.int64(),  # 0: the sample has none, for a tar begins with a header
            "image_size": pa.int32(),
            "features_at": pa.int64(),
            "features_size": pa.int32(),
            "repeated": pa.uint8(),  # 1: its key stands in another shard, too
        }.items()
    ]
)
SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("mtime_ns", pa.int64(), nullable=False),
        pa.field("sha256", pa.binary(32), nullable=False),
        pa.field("tag", pa.string()),  # ETag or the like, of a remote shard
        pa.field("features", pa.string()),  # JSON: what its stored features have in common
        pa.field("problems", pa.list_(pa.struct([("member", pa.string()), ("reason", pa.string())])), nullable=False),
        pa.field("samples", pa.large_list(pa.field("item", SAMPLE, nullable=False)), nullable=False),
    ]
)

MEND = "Delete it: it is made anew from the shards (with format and ignore as task=index was given)"


class ShardError(ValueError):
    """A shard that cannot be read whole; the message names the file, expected and got."""


class Facts(TypedDict):
    """What an index says of itself."""

    version: Literal[5]
    format: Format
    ignore: list[str]


_FACTS = TypeAdapter(Facts)


class Shard(NamedTuple):
    """One shard of an index: its file, and what in it cannot be used."""

    name: str
    size: int
    mtime_ns: int
    sha256: str
    tag: str | None
    features: dict[str, Any] | None
    problems: list[tuple[str, str]]


class Index:
    """The shards of a folder and where their samples lie; a sample is a row number.

    Args:
        batch: of SCHEMA, a row per shard.
        form: which members a sample has.
        ignore: further extensions that may stand in the shards.
        file: where it is mapped from, if it is, and the checksum in it.
    """

    def __init__(
        self, batch: pa.RecordBatch, form: Format, ignore: Collection[str], file: tuple[Path, str] | None = None
    ) -> None:
        self.batch, self.form, self.ignore, self.file = batch, form, tuple(ignore), file
        samples = batch.column("samples")
        self.starts: np.ndarray = samples.offsets.to_numpy()
        """Row numbers: shard s has the rows from starts[s] to starts[s + 1]."""
        self.names = batch.column("name")
        self.sizes: np.ndarray = batch.column("size").to_numpy()
        self.times: np.ndarray = batch.column("mtime_ns").to_numpy()
        self._keys = samples.values.field("key")
        self._numbers: dict[str, np.ndarray] = {
            field.name: samples.values.field(field.name).to_numpy() for field in SAMPLE if field.name != "key"
        }

    @property
    def shards(self) -> list[Shard]:
        """All shards; they are not kept."""
        columns = (column.to_pylist() for column in self.batch.columns[:-1])
        return [_shard(values) for values in zip(*columns, strict=True)]

    def shard(self, number: int) -> Shard:
        """What is known of a shard."""
        return _shard(column[number].as_py() for column in self.batch.columns[:-1])

    def damaged_shards(self) -> set[int]:
        """The numbers of those with problems."""
        return set(np.flatnonzero(np.diff(self.batch.column("problems").offsets.to_numpy())).tolist())

    def key(self, row: int) -> str:
        """The key of a sample."""
        return str(self._keys[row].as_py())

    def members(self, row: int) -> dict[str, tuple[int, int]]:
        """Extension to (offset, size in bytes) of a sample's files."""
        columns = self._numbers
        places = {TEXT_EXTENSIONS[columns["text"][row]]: (int(columns["text_at"][row]), int(columns["text_size"][row]))}
        if at := int(columns["image_at"][row]):
            places[IMAGE_EXTENSIONS[columns["image"][row]]] = at, int(columns["image_size"][row])
        if at := int(columns["features_at"][row]):
            places[FEATURES] = at, int(columns["features_size"][row])
        return places

    def column(self, name: str) -> np.ndarray:
        """A number of every sample, without a copy: [rows]; `name` is one of SAMPLE's."""
        return self._numbers[name]

    def touched(self, shard: int, mtime_ns: int) -> pa.RecordBatch:
        """A shard's row with another time of change."""
        at = SCHEMA.get_field_index("mtime_ns")
        return self.batch.slice(shard, 1).set_column(at, SCHEMA.field(at), pa.array([mtime_ns], pa.int64()))

    def fingerprint(self, shards: Sequence[int]) -> str:
        """Equal for equal shards in equal order."""
        names, sums = (self.batch.column(name).take(pa.array(shards, pa.int64())) for name in ("name", "sha256"))
        pairs = zip(names.to_pylist(), sums.to_pylist(), strict=True)
        return hashlib.sha256("\n".join(f"{n} {s.hex()}" for n, s in pairs).encode()).hexdigest()[:16]

    def __reduce__(self) -> tuple[Any, ...]:
        """A process that gets a mapped index maps it, too."""
        if self.file is None:
            return Index, (self.batch, self.form, self.ignore)
        return _map_again, (*self.file, self.fingerprint(range(len(self.names))))


def _shard(values: Iterable[Any]) -> Shard:
    """What a row says, in the order of the columns."""
    name, size, mtime_ns, sha256, tag, features, problems = values
    common = None if features is None else json.loads(features)
    return Shard(name, size, mtime_ns, sha256.hex(), tag, common, [(p["member"], p["reason"]) for p in problems])


# --- making one ------------------------------------------------------------------------------------


def shard_row(entry: Entry) -> pa.RecordBatch:
    """What was found in a shard, as a row of an index."""
    samples: dict[str, list[Any]] = {field.name: [] for field in SAMPLE}
    for key, members in entry["samples"]:
        text = max(i for i, extension in enumerate(TEXT_EXTENSIONS) if extension in members)
        image = next((i for i, extension in enumerate(IMAGE_EXTENSIONS) if extension in members), None)
        row = (
            key, text, *members[TEXT_EXTENSIONS[text]],
            image or 0, *((0, 0) if image is None else members[IMAGE_EXTENSIONS[image]]),
            *members.get(FEATURES, (0, 0)), 0,
        )  # fmt: skip
        for column, value in zip(samples.values(), row, strict=True):
            column.append(value)
    rows = pa.StructArray.from_arrays(
        [pa.array(samples[field.name], field.type) for field in SAMPLE], fields=list(SAMPLE)
    )
    values = {
        **entry,
        "sha256": bytes.fromhex(entry["sha256"]),
        "tag": entry.get("tag"),
        "features": entry["features"] and json.dumps(entry["features"]),
        "problems": [{"member": member, "reason": reason} for member, reason in entry["problems"]],
    }
    columns = [pa.array([values[field.name]], field.type) for field in list(SCHEMA)[:-1]]
    listed = pa.LargeListArray.from_arrays(
        pa.array([0, len(rows)], pa.int64()), rows, type=SCHEMA.field("samples").type
    )
    return pa.RecordBatch.from_arrays([*columns, listed], schema=SCHEMA)


def build_index(rows: Iterable[pa.RecordBatch], form: Format, ignore: Collection[str]) -> Index:
    """The index of shards (`shard_row`) in their order, of which there is at least one."""
    batch = pa.Table.from_batches(rows, SCHEMA).combine_chunks().to_batches()[0]
    samples = batch.column("samples")
    codes = samples.values.field("key").dictionary_encode().indices.to_numpy()
    repeated = (np.bincount(codes) > 1)[codes].astype(np.uint8) if len(codes) else np.zeros(0, np.uint8)
    columns = [samples.values.field(field.name) for field in list(SAMPLE)[:-1]]
    values = pa.StructArray.from_arrays([*columns, pa.array(repeated)], fields=list(SAMPLE))
    listed = pa.LargeListArray.from_arrays(samples.offsets, values, type=samples.type)
    return Index(pa.RecordBatch.from_arrays([*batch.columns[:-1], listed], schema=SCHEMA), form, ignore)


def write_index(path: Path, entries: Iterable[Entry], form: Format, ignore: Collection[str]) -> None:
    """Write what was found in shards; a shard at a time is held as Python objects. See `save_index`."""
    save_index(path, build_index(map(shard_row, entries), form, ignore))


def save_index(path: Path, index: Index) -> None:
    """Write an index; a read-only folder is indexed anew each time. Several processes may write the same one."""
    facts = {"version": INDEX_VERSION, "format": index.form, "ignore": list(index.ignore)}
    token = secrets.token_hex(32)
    schema = SCHEMA.with_metadata({"dress": json.dumps(facts), "checksum": token})
    with contextlib.suppress(OSError):
        aside = path.with_name(f"{path.name}.{os.getpid()}")
        with write_aside(aside, pa.ArrowException) as partial:
            with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
                writer.write_batch(index.batch)
            _sign(partial, token)
        aside.replace(path)


def _sign(path: Path, token: str) -> None:
    """Put the checksum of a file in the places of `token`, of the same length."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        checksum = _digest(data, token).encode()
        for at in (data.find(token.encode()), data.rfind(token.encode())):
            data[at : at + len(checksum)] = checksum


def _digest(data: mmap.mmap, checksum: str) -> str:
    """The sha256 of a file but for its checksum, which stands in the schema at its start and in that at its end."""
    size = len(checksum)
    first, last = data.find(checksum.encode()), data.rfind(checksum.encode())
    with memoryview(data) as view:
        digest = hashlib.sha256(view[:first])
        digest.update(view[first + size : last])
        digest.update(view[last + size :])
    return digest.hexdigest()


# --- reading one -----------------------------------------------------------------------------------


def read_index(path: Path) -> Index | None:
    """An index, mapped into memory; None where there is none.

    Raises:
        ShardError: it was changed since it was written, or is no index.
    """
    if not os.path.lexists(path):
        return None
    try:
        check_regular(path)
        return _map(path)
    except (ValueError, OSError, StopIteration, struct.error, pa.ArrowException) as error:
        why = str(error).partition("\n")[0]
        raise ShardError(
            f"{path}: expected an index of version {INDEX_VERSION}, got another ({why:.300}). {MEND}"
        ) from None


def _map(path: Path, known: str | None = None) -> Index:
    """Raises ValueError or ArrowException: no index, or another checksum than it says, unless that one is `known`."""
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if data[: len(MAGIC)] != MAGIC:
        raise ValueError(f"it begins with {data[:16]!r}")
    messages = pa.MessageReader.open_stream(pa.py_buffer(data)[len(MAGIC) :])
    schema = pa.ipc.read_schema(messages.read_next_message())
    metadata = schema.metadata or {}
    checksum = metadata.get(b"checksum", b"").decode()
    if len(checksum) != 64:
        raise ValueError("expected its checksum, found none")
    if checksum != known and (digest := _digest(data, checksum)) != checksum:
        raise ValueError(f"changed or damaged since it was written: sha256 {checksum[:12]} expected, {digest[:12]} got")
    try:
        facts = _FACTS.validate_json(metadata.get(b"dress", b""))
    except ValidationError as error:
        raise ValueError(error.errors(include_url=False, include_input=False)[0]["msg"]) from None
    message = messages.read_next_message()
    if not schema.remove_metadata().equals(SCHEMA) or message.type != "record batch" or _compressed(message.metadata):
        raise ValueError("other columns, or compressed ones")
    batch = pa.ipc.read_record_batch(message, schema.remove_metadata())
    if checksum != known:
        _check(batch)
    return Index(batch, facts["format"], facts["ignore"], (path, checksum))


def _map_again(path: Path, checksum: str, shards: str) -> Index:
    """The index that another process of this run maps.

    Raises:
        ShardError: it is there no more, or lists other shards.
    """
    try:
        index = _map(path, checksum)
    except (ValueError, OSError, StopIteration, struct.error, pa.ArrowException):
        index = None
    if index is None or index.fingerprint(range(len(index.names))) != shards:
        raise ShardError(
            f"{path}: expected the index that this run began with, got another or none: it was changed in use"
        )
    return index


def _compressed(metadata: pa.Buffer) -> bool:
    """Whether a record batch's buffers are compressed: what is small on disk may be anything in memory.

    Arrow's `Message` and `RecordBatch` are flatbuffers; field 2 of the first is the second, whose field 3 says how.
    """
    data = memoryview(metadata)

    def field(table: int, number: int) -> int:
        vtable = table - struct.unpack_from("<i", data, table)[0]
        length = struct.unpack_from("<H", data, vtable)[0]
        offset = struct.unpack_from("<H", data, vtable + 4 + 2 * number)[0] if 4 + 2 * number < length else 0
        return table + offset if offset else 0

    root = struct.unpack_from("<I", data, 0)[0]
    batch = field(root, 2)
    return field(batch + struct.unpack_from("<I", data, batch)[0], 3) != 0


def _check(batch: pa.RecordBatch) -> None:
    """Raises ValueError or ArrowException: values that an index of ours never has."""
    batch.validate(full=True)
    samples = batch.column("samples")
    columns = {field.name: samples.values.field(field.name) for field in SAMPLE}
    nulls = [*columns.values(), samples.values, *(batch.column(f.name) for f in SCHEMA if not f.nullable)]
    if batch.num_rows == 0 or any(column.null_count for column in nulls):
        raise ValueError("empty values")
    limits = {
        "text": len(TEXT_EXTENSIONS), "image": len(IMAGE_EXTENSIONS), "repeated": 2,
        **dict.fromkeys(("text_at", "image_at", "features_at"), 1 << 60),
        **dict.fromkeys(("text_size", "image_size", "features_size"), MAX_MEMBER_BYTES + 1),
    }  # fmt: skip
    for name, limit in limits.items():
        values = columns[name].to_numpy()
        if len(values) and not 0 <= values.min() <= values.max() < limit:
            raise ValueError(f"{name}: expected 0 to {limit - 1}, got {values.min()} to {values.max()}")
    for common in batch.column("features").drop_null().unique().to_pylist():
        TypeAdapter(dict[str, Any]).validate_json(common)
    if any(None in problem.values() for problems in batch.column("problems").to_pylist() for problem in problems):
        raise ValueError("empty values")
