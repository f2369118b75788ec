"""The index of a folder of shards: an Arrow file that is mapped, checked, and made from an older one."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import png, tar
from rich.console import Console

from dress.config.tasks import Index as IndexSettings
from dress.data import index_file, index_task
from dress.data.index_file import INDEX, SAMPLE, SCHEMA, Index, build_index, read_index, save_index, shard_row
from dress.data.shards import ShardError, Shards, write_shards
from dress.data.stream import Part, Stream
from dress.worlds.shapes import generate as shapes

ROOT = Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """12 samples in three shards, with their index."""
    write_shards(tmp_path / "s", shapes.samples("sft", 12, seed=3), per_shard=5)
    Shards(tmp_path / "s")
    return tmp_path / "s"


def old_index(folder: Path, **more) -> Path:
    """The `index.json` that earlier versions wrote in the place of the index."""
    index = read_index(folder / INDEX)
    shards = [
        {"name": s.name, "size": s.size, "mtime_ns": s.mtime_ns, "sha256": s.sha256, "samples": [], "problems": []}
        for s in index.shards
    ]
    old = {"checksum": "0" * 64, "version": 4, "format": index.form, "ignore": list(index.ignore), "shards": shards}
    (folder / INDEX).unlink()
    (folder / "index.json").write_text(json.dumps(old | more))
    return folder / "index.json"


def keys(shards: Shards) -> list[str]:
    return [record.key for record, _ in shards]


# --- what it holds ---------------------------------------------------------------------------------


def test_a_sample_takes_less_than_100_bytes_and_no_object(folder):
    index = read_index(folder / INDEX)
    samples = index.batch.column("samples").values
    assert samples.nbytes / len(samples) < 100
    assert pa.ipc.open_file(str(folder / INDEX)).read_all().num_rows == 3  # for anybody's Arrow
    mapped = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(INDEX)]
    assert str(folder / INDEX) in mapped


def test_places_and_lengths_of_texts_are_those_of_the_tar(folder):
    index, tarred = read_index(folder / INDEX), (folder / "shard-000001.tar").read_bytes()
    rows = range(int(index.starts[1]), int(index.starts[2]))
    texts = [tarred[offset : offset + size] for row in rows for offset, size in [index.members(row)["json"]]]
    assert [json.loads(text)["key"] for text in texts] == [index.key(row) for row in rows] == [
        f"sft-{n:06d}" for n in range(5, 10)
    ]  # fmt: skip
    assert index.column("text_size")[5:10].tolist() == list(map(len, texts))
    assert all(index.members(row)["png"][1] for row in rows)


def test_longer_texts_are_found_without_reading_a_shard(folder):
    shards = Shards(folder)
    sizes = [len(shards.members(i)["json"]) for i in range(len(shards))]
    for file in folder.glob("*.tar"):
        file.unlink()
    for limit in (0, sorted(sizes)[5], max(sizes)):
        assert shards.longer_texts(limit) == [i for i, size in enumerate(sizes) if size > limit]


def test_a_process_that_gets_shards_maps_the_same_file(folder, tmp_path):
    shards = Shards(folder)
    data = pickle.dumps(shards)
    assert b"sft-000003" not in data
    assert keys(pickle.loads(data)) == keys(shards)
    os.utime(folder / "shard-000001.tar", (0, 0))
    Shards(folder)  # writes the index anew, of the same shards
    assert keys(pickle.loads(data)) == keys(shards)
    write_shards(folder, [(shards[0][0].model_copy(update={"key": "another"}), None)], start=3)
    Shards(folder)
    with pytest.raises(ShardError, match=r"index\.arrow: expected the index that this run began with"):
        pickle.loads(data)


def test_an_index_that_cannot_be_written_is_held_in_memory(folder):
    index = Index(read_index(folder / INDEX).batch, "records", ())
    assert pickle.loads(pickle.dumps(index)).batch.equals(index.batch)


def test_equal_shards_give_an_equal_index(folder, tmp_path):
    before = (folder / INDEX).read_bytes()
    (folder / INDEX).unlink()
    Shards(folder)
    assert (folder / INDEX).read_bytes() == before


def test_a_shard_more_one_touched_and_one_gone(folder):
    more = ((r.model_copy(update={"key": f"n{r.key}"}), image) for r, image in shapes.samples("sft", 3, seed=3))
    write_shards(folder, more, start=3)
    os.utime(folder / "shard-000000.tar", (0, 0))
    shards = Shards(folder)
    assert len(shards) == 15 and read_index(folder / INDEX).shards[0].mtime_ns == 0
    assert keys(shards)[12:] == [f"nsft-{n:06d}" for n in range(3)]
    (folder / "shard-000001.tar").unlink()
    before = (folder / INDEX).read_bytes()
    rest = Shards(folder, on_damage="skip")
    assert keys(rest) == [f"sft-{n:06d}" for n in (*range(5), 10, 11)] + [f"nsft-{n:06d}" for n in range(3)]
    assert (folder / INDEX).read_bytes() == before
    assert rest.where(5).endswith("shard-000002.tar: sft-000010")
    assert [(name, list(rows)) for name, rows in rest.by_file()][1] == ("shard-000002.tar", [5, 6])
    with pytest.raises(IndexError):
        rest.where(10)


def test_a_key_of_several_shards_stands_for_the_first_that_is_there(tmp_path):
    write_shards(tmp_path, shapes.samples("sft", 4, seed=3), per_shard=2)
    write_shards(tmp_path, shapes.samples("sft", 3, seed=3), per_shard=3, start=2)
    with pytest.raises(ShardError, match=r"shard-000002\.tar: sft-000000: .*got it in .*shard-000000\.tar too"):
        Shards(tmp_path)
    index_task.run(IndexSettings(task="index", path=str(tmp_path)), Console(quiet=True))
    shards = Shards(tmp_path, on_damage="skip")
    assert keys(shards) == [f"sft-{n:06d}" for n in range(4)] and len(shards.damage) == 3
    assert list(shards.lengths) == [2, 2, 0]
    (tmp_path / "shard-000000.tar").unlink()
    assert keys(Shards(tmp_path, on_damage="skip")) == [f"sft-{n:06d}" for n in (2, 3, 0, 1)]


def large_folder(folder: Path, samples: int, shards: int) -> None:
    """Sparse shards and an index of so many samples, made without an object for each."""
    folder.mkdir()
    rows = []
    for number in range(shards):
        path, first, each = folder / f"s-{number:04d}.tar", number * samples // shards, samples // shards
        path.touch()
        os.truncate(path, 1 << 24)
        columns = {"key": pa.array(np.arange(first, first + each)).cast(pa.large_string())} | {
            field.name: pa.repeat(pa.scalar(0 if field.type == pa.uint8() else 512, field.type), each)
            for field in list(SAMPLE)[1:]
        }
        values = pa.StructArray.from_arrays(list(columns.values()), fields=list(SAMPLE))
        listed = pa.LargeListArray.from_arrays(
            pa.array([0, each], pa.int64()), values, type=SCHEMA.field("samples").type
        )
        about = [path.name, 1 << 24, path.stat().st_mtime_ns, bytes(32), None, None, []]
        rows.append(
            pa.RecordBatch.from_arrays(
                [*(pa.array([value], field.type) for value, field in zip(about, SCHEMA, strict=False)), listed],
                schema=SCHEMA,
            )
        )
    save_index(folder / INDEX, build_index(rows, "records", ()))


def test_opening_makes_no_object_of_a_sample_and_visits_none(tmp_path):
    large_folder(tmp_path / "large", 2_000_000, 200)
    tracemalloc.start()
    shards = Shards(tmp_path / "large")
    stream = Stream([Part("", shards)], seed=0, window=2)
    assert len(shards) == 2_000_000 and shards.longer_texts(512) == [] and len(stream.step(0, 100)) == 100
    assert stream.fingerprint
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 << 20  # an object of each takes 50 MB at least; a window's samples are a few
    began = time.process_time()
    Shards(tmp_path / "large")
    assert time.process_time() - began < 1.5  # about 0.2 s; a visit to each of them in Python, 2 s and more


# --- what others may write -------------------------------------------------------------------------


def entry(**more):
    return {"name": "a.tar", "size": 9, "mtime_ns": 0, "sha256": "0" * 64, "problems": [], "features": None, **more}


@pytest.mark.parametrize(
    ("place", "named"),
    [
        ((1 << 61, 9), "text_at: expected 0 to"), ((-1, 9), "text_at: expected 0 to"),
        ((512, 1 << 30), "text_size: expected 0 to 67108864, got 1073741824"), ((512, -1), "text_size"),
    ],
)  # fmt: skip
def test_places_out_of_bounds_are_refused(place, named, tmp_path):
    row = shard_row(entry(samples=[("a", {"json": place})]))
    save_index(tmp_path / INDEX, build_index([row], "records", ()))
    with pytest.raises(ShardError, match=named):
        read_index(tmp_path / INDEX)


def test_empty_values_other_columns_and_compressed_ones_are_refused(tmp_path):
    row = shard_row(entry(samples=[("a", {"json": (512, 9)})]))
    samples = row.column("samples")
    children = [samples.values.field(field.name) for field in SAMPLE]
    children[0] = pa.array([None], pa.large_string())
    values = pa.StructArray.from_arrays(children, fields=list(SAMPLE))
    listed = pa.LargeListArray.from_arrays(samples.offsets, values, type=samples.type)
    without = pa.RecordBatch.from_arrays([*row.columns[:-1], listed], schema=SCHEMA)
    other = pa.RecordBatch.from_pydict({"a": [1]})
    for batch, compression, named in [
        (without, None, ""), (other, None, "other columns"), (row, "zstd", "compressed"), (row, "lz4", "compressed"),
    ]:  # fmt: skip
        signed(tmp_path / INDEX, batch, compression)
        with pytest.raises(ShardError, match=rf"index\.arrow: .*{named}"):
            read_index(tmp_path / INDEX)
    signed(tmp_path / INDEX, row, None)
    assert read_index(tmp_path / INDEX).members(0) == {"json": (512, 9)}
    signed(tmp_path / INDEX, row, None, version=6)
    with pytest.raises(ShardError, match="expected an index of version 5, got another"):
        read_index(tmp_path / INDEX)


@pytest.mark.parametrize(
    ("old", "new"), [(struct.pack("<qq", 0, 6), struct.pack("<qq", 0, 1 << 40)), (b"KEYKEY", b"KEY\xff\xff\xff")]
)
def test_offsets_that_lead_out_of_the_file_and_other_bytes_than_text_are_refused(old, new, tmp_path):
    row = shard_row(entry(samples=[("KEYKEY", {"json": (512, 9)})]))
    signed(tmp_path / INDEX, row, None, change=(old, new))
    with pytest.raises(ShardError, match=r"index\.arrow: expected an index of version 5, got another"):
        read_index(tmp_path / INDEX)
    signed(tmp_path / INDEX, row, None)
    assert read_index(tmp_path / INDEX).key(0) == "KEYKEY"


def signed(
    path: Path,
    batch: pa.RecordBatch,
    compression: str | None,
    version: int = 5,
    change: tuple[bytes, bytes] = (b"", b""),
) -> None:
    """An index with a right checksum, whatever is in it; `change`: bytes that stand once in it, and others."""
    token = "f" * 64
    facts = json.dumps({"version": version, "format": "records", "ignore": []})
    schema = batch.schema.with_metadata({"dress": facts, "checksum": token})
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema, options=options) as writer:
        writer.write_batch(batch)
    if change[0]:
        assert path.read_bytes().count(change[0]) == 1
        path.write_bytes(path.read_bytes().replace(*change))
    index_file._sign(path, token)


# --- an index of an earlier version ----------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 3, 4])
def test_an_old_index_is_made_anew(folder, version):
    good = keys(Shards(folder))
    old = old_index(folder, version=version)
    assert keys(Shards(folder)) == good
    assert read_index(folder / INDEX) is not None and not old.exists()


def test_an_old_index_tells_format_extensions_and_checksums(tmp_path):
    tar(tmp_path / "s.tar", [("a.txt", b"a dog"), ("a.png", png()), ("a.cls", b"3")])
    index_task.run(IndexSettings(task="index", path=str(tmp_path), ignore=["cls"]), Console(quiet=True))
    old = old_index(tmp_path)
    assert Shards(tmp_path)[0][0].annotation.captions == ["a dog"]
    assert not old.exists()
    old = old_index(tmp_path)
    (tmp_path / "s.tar").write_bytes((tmp_path / "s.tar").read_bytes().replace(b"a dog", b"a cat"))
    with pytest.raises(ShardError, match=r"s\.tar: content changed since it was indexed .*index\.json"):
        Shards(tmp_path)
    assert old.exists() and not (tmp_path / INDEX).exists()


def test_images_are_compared_when_an_old_index_is_made_anew(folder):
    """What `task=index` had found in them stood in the old one."""
    old_index(folder)
    path, image = folder / "shard-000001.tar", Shards(folder).image(7)
    (folder / INDEX).unlink()
    path.write_bytes(path.read_bytes().replace(image, image[:-1] + b"x"))
    old = {"version": 3, "format": "records", "ignore": [], "shards": []}
    (folder / "index.json").write_text(json.dumps(old))
    with pytest.raises(ShardError, match=r"shard-000001\.tar: sft-000007: image\.sha256: expected"):
        Shards(folder)


def test_a_damaged_old_index_is_named(folder):
    old = old_index(folder)
    old.write_text(old.read_text()[:-9])
    with pytest.raises(ShardError, match=r"index\.json: expected an index of an earlier version, .*Delete it"):
        Shards(folder)
    assert len(Shards(folder, on_damage="skip")) == 12


UNPRIVILEGED = """
import os, sys
import pyarrow.compute  # which Arrow imports late, and nobody else may read
from dress.data.shards import Shards
os.setgid(65534); os.setuid(65534)
try:
    print(len(Shards(sys.argv[1])))
except ValueError as error:
    print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_folder_that_cannot_be_written_is_read_but_not_with_an_old_index(folder):
    def opened() -> str:
        return subprocess.run(
            [sys.executable, "-c", UNPRIVILEGED, str(folder)], capture_output=True, text=True, check=True,
            env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "HOME": "/"},
        ).stdout.strip()  # fmt: skip

    for place in (folder, *folder.parents):
        place.chmod(0o755)
        if place.parent == Path("/tmp"):
            break
    assert opened() == "12"
    before = (folder / INDEX).read_bytes()
    (folder / INDEX).unlink()
    assert opened() == "12" and not (folder / INDEX).exists()
    (folder / INDEX).write_bytes(before)
    old_index(folder)
    assert f"Run `python src/prepare.py task=index path={folder}` where it can" in opened()
    index_task.run(IndexSettings(task="index", path=str(folder)), Console(quiet=True))
    assert opened() == "12" and not (folder / "index.json").exists()
