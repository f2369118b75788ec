"""Rows of Parquet and Arrow files as the JSON that the same set has as JSON lines; images go beside the rows.

Read by pyarrow, a few rows at a time. No loading script is run, and no Python object comes out of a file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dress.data.images import UNUSABLE
from dress.data.index import MAX_MEMBER_BYTES
from dress.data.shards import image_extension
from dress.sources.protocol import RowError
from dress.sources.rows import MAX_ROW_BYTES, Blocks, Fault, Row, Rows, too_large

AT_ONCE = 32
"""Rows in memory; they may hold images."""
_DAMAGE = (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError)


def arrow_rows(path: Path, blocks: Blocks | None = None) -> Rows:
    """What reads the rows of a file: `.arrow` is Arrow's stream or file format, any other name Parquet.

    What holds no row of a part is passed over: groups of rows are not read, rows not made.
    """
    return partial(_arrow if path.suffix == ".arrow" else _parquet, path, blocks)


def _parquet(path: Path, blocks: Blocks | None, after: int) -> Iterator[Row]:
    """A damaged group of rows is one row with a fault; the groups behind it are read."""
    number = 0
    try:
        file = pq.ParquetFile(path, buffer_size=1 << 20, page_checksum_verification=True)
    except _DAMAGE as error:
        if blocks is None or blocks.has(1):
            yield Row(1, b"", Fault("damaged file", f"expected Parquet, got something else ({error})"[:400]))
        return
    with file:
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if number + size > after and (blocks is None or blocks.any(number + 1, number + size)):
                batches = file.iter_batches(AT_ONCE, row_groups=[group], use_threads=False)
                yield from (row for row in _rows(batches, blocks, number, number + size) if row.number > after)
            number += size


def _arrow(path: Path, blocks: Blocks | None, after: int) -> Iterator[Row]:
    with path.open("rb") as head:
        is_file = head.read(6) == b"ARROW1"

    def batches() -> Iterator[pa.RecordBatch]:
        with pa.memory_map(str(path)) as source:
            if is_file:
                reader = pa.ipc.open_file(source)
                yield from map(reader.get_batch, range(reader.num_record_batches))
            else:
                yield from pa.ipc.open_stream(source)

    yield from (row for row in _rows(batches(), blocks, 0) if row.number > after)


def _rows(
    batches: Iterable[pa.RecordBatch], blocks: Blocks | None, number: int, end: int | None = None
) -> Iterator[Row]:
    """Rows from `number` + 1 on; where reading fails, one row with a fault stands for the rest."""
    try:
        for batch in batches:
            for place in range(0, batch.num_rows, AT_ONCE):
                some = batch.slice(place, AT_ONCE)
                if blocks is not None and not blocks.any(number + 1, number + some.num_rows):
                    number += some.num_rows
                    continue
                for value in _python_values(some):
                    number += 1
                    if blocks is None or blocks.has(number):
                        yield _row(number, value)
    except _DAMAGE as error:
        if blocks is not None and not blocks.has(number + 1):
            return
        rows = f"row {number + 1} and all behind it" if end is None else f"rows {number + 1} to {end}"
        yield Row(number + 1, b"", Fault("damaged file", f"{rows} cannot be read ({error})"[:400]))


def _python_values(batch: pa.RecordBatch) -> list[Any]:
    """Of each row; where one cannot be read, its fault."""
    try:
        batch.validate(full=True)  # an offset that leads out of the file would end the process
        return batch.to_pylist()
    except _DAMAGE as error:
        if batch.num_rows == 1:
            return [Fault("damaged row", f"expected values of the column's type, got others ({error})"[:400])]
        return [value for row in range(batch.num_rows) for value in _python_values(batch.slice(row, 1))]


def _row(number: int, value: Any) -> Row:
    if isinstance(value, Fault):
        return Row(number, b"", value)
    images: dict[str, bytes] = {}
    try:
        data = json.dumps(_plain(value, images), ensure_ascii=False, default=str).encode()
    except RowError as error:
        return Row(number, b"", Fault(error.reason, error.detail))
    fault = too_large(len(data), f"in row {number}") if len(data) > MAX_ROW_BYTES else None
    return Row(number, data[:1000] if fault else data, fault, tuple(images.items()))


def _plain(value: Any, images: dict[str, bytes]) -> Any:
    """A value with names in the place of images: of bytes, and of structs `{bytes, path}`."""
    if isinstance(value, bytes):
        return image_name(value, None, images)
    if isinstance(value, dict):
        if value.keys() != {"bytes", "path"}:
            return {name: _plain(inner, images) for name, inner in value.items()}
        if value["bytes"] is None:
            return value["path"]
        return image_name(value["bytes"], value["path"], images)
    return [_plain(inner, images) for inner in value] if isinstance(value, list | tuple) else value


def image_name(data: bytes, path: str | None, images: dict[str, bytes]) -> str:
    """`<checksum>/<file name>`, so that different images of one name stay two: many sets call each one `image.jpg`."""
    if len(data) > MAX_MEMBER_BYTES:
        raise RowError(UNUSABLE, f"expected at most {MAX_MEMBER_BYTES:,} bytes, got {len(data):,}")
    checksum = hashlib.sha256(data).hexdigest()[:32]
    file = re.split(r"[\\/]", path or "")[-1]
    name = f"{checksum}/{file}" if file else f"{checksum}.{image_extension(data)}"
    images[name] = data
    return name
