"""Shards: whole or refused, readable by plain webdataset, and nothing in them executes."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import subprocess
import sys
import tarfile
import threading
import time
import tracemalloc
from pathlib import Path

import pytest
import webdataset
from conftest import huge_png
from hypothesis import given
from hypothesis import strategies as st

from dress.base.seeding import rng_for
from dress.data.images import open_image
from dress.data.order import EpochOrder
from dress.data.shards import ShardError, Shards, write_shards
from dress.data.stream import Part, Stream
from dress.record import Record, RecordError
from dress.worlds.shapes import generate as shapes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shards(tmp_path / "s", shapes.samples("sft", 12, seed=3), per_shard=5)
    return tmp_path / "s"


def tar_with(folder: Path, members: dict[str, bytes | tarfile.TarInfo]) -> Path:
    folder.mkdir(parents=True)
    with tarfile.open(folder / "shard-000000.tar", "w") as tar:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return folder


def test_what_is_written_is_read_and_equal_samples_give_equal_bytes(folder, tmp_path):
    shards = Shards(folder)
    assert [(r.key, i) for r, i in shards] == [(r.key, i) for r, i in shapes.samples("sft", 12, seed=3)]
    assert shards.lengths == [5, 5, 2]
    write_shards(tmp_path / "again", shapes.samples("sft", 12, seed=3), per_shard=5)
    assert [p.read_bytes() for p in sorted(folder.glob("*.tar"))] == [
        p.read_bytes() for p in sorted((tmp_path / "again").glob("*.tar"))
    ]
    assert Shards(tmp_path / "again").fingerprint == shards.fingerprint


def test_plain_webdataset_reads_our_shards(folder):
    urls = [str(p) for p in sorted(folder.glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [s["__key__"] for s in samples] == [r.key for r, _ in Shards(folder)]
    assert Record.parse(samples[0]["json"], "").key == samples[0]["__key__"]
    assert samples[0]["png"].startswith(b"\x89PNG")


@pytest.mark.parametrize("cut", [100, 512 * 3 + 17, -512 * 21, -512])
def test_a_cut_shard_is_named(folder, cut):
    path = folder / "shard-000001.tar"
    data = path.read_bytes()
    end = len(data.rstrip(b"\0")) if cut < 0 else None
    path.write_bytes(data[:cut] if end is None else data[: end + cut])
    with pytest.raises(ShardError, match=r"shard-000001\.tar"):
        Shards(folder)


def test_a_shard_that_changed_after_indexing_is_named(folder):
    Shards(folder)
    path = folder / "shard-000002.tar"
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(1, 1))
    with pytest.raises(ShardError, match=r"shard-000002\.tar.*content changed"):
        Shards(folder)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Shards(tmp_path / "nowhere")


class Boom:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("extension", ["pkl", "pyd", "pth", "pickle", "pkl.gz"])
def test_nothing_that_could_execute_is_decoded(tmp_path, monkeypatch, extension):
    monkeypatch.chdir(tmp_path)
    tar_with(tmp_path / "s", {"a.json": b"{}", f"a.{extension}": pickle.dumps(Boom())})
    with pytest.raises(ShardError, match=r"never decoded"):
        Shards(tmp_path / "s")
    assert not (tmp_path / "executed").exists()


def test_links_duplicates_and_lonely_images_are_refused(tmp_path):
    link = tarfile.TarInfo("a.json")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with pytest.raises(ShardError, match="link"):
        Shards(tar_with(tmp_path / "link", {"a.json": link}))
    twice = tmp_path / "twice"
    twice.mkdir()
    with tarfile.open(twice / "s.tar", "w") as tar:
        for _ in range(2):
            info = tarfile.TarInfo("a.json")
            info.size = 2
            tar.addfile(info, io.BytesIO(b"{}"))
    with pytest.raises(ShardError, match="twice"):
        Shards(twice)
    with pytest.raises(ShardError, match=r"a\.json"):
        Shards(tar_with(tmp_path / "lonely", {"a.png": b"x"}))


def test_a_record_that_does_not_fit_names_shard_and_key(tmp_path):
    bad = json.dumps({"key": "a", "dialogues": [{"turns": []}]}).encode()
    shards = Shards(tar_with(tmp_path / "s", {"a.json": bad}))
    with pytest.raises(RecordError, match=r"shard-000000\.tar: a: dialogues\.0\.turns"):
        shards[0]


def test_no_space_left_is_said_and_whole_shards_stay(tmp_path):
    code = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(shapes.__file__).parents[3])!r})
from pathlib import Path
from dress.data.shards import write_shards
from dress.worlds.shapes import generate as shapes
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
sizes = iter([3, 3, 200])
samples = list(shapes.samples("sft", 206, seed=1))
write_shards(Path({str(tmp_path)!r}), samples[:6], per_shard=3)
try:
    write_shards(Path({str(tmp_path)!r}), samples[6:], per_shard=200, start=2)
except OSError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "shard-000002.tar" in done.stdout and "MB free" in done.stdout
    assert len(Shards(tmp_path)) == 6


def test_a_huge_png_is_refused_from_its_header(tmp_path):
    """In a process of its own: what other tests took does not hide what this one takes."""
    (tmp_path / "a.png").write_bytes(huge_png())
    assert (tmp_path / "a.png").stat().st_size < 50_000
    code = f"""
import resource, sys
sys.path.insert(0, {str(Path(shapes.__file__).parents[3])!r})
from dress.base.seeding import rng_for
from dress.data.images import open_image
from dress.data.pixels import decode
from dress.record import RecordError
data = open({str(tmp_path / "a.png")!r}, "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for decoder in (open_image, decode):
    try:
        decoder(data, "a.png")
    except RecordError as error:
        print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second, grown = done.stdout.splitlines()
    assert first == second and first.startswith("a.png: image is 13000 x 13000")
    assert int(grown) < 50_000  # KiB


@pytest.mark.parametrize("data", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0"])
def test_what_is_no_image_is_named(data):
    with pytest.raises(RecordError, match=r"where\.png"):
        open_image(data, "where.png")


@given(st.integers(0, 5), st.integers(0, 3), st.lists(st.integers(1, 7), min_size=1, max_size=40), st.integers(1, 20))
def test_an_epoch_holds_every_sample_once(seed, epoch, lengths, window):
    order = EpochOrder(seed, epoch, lengths, window)
    assert sorted(order) == list(range(sum(lengths)))


@given(st.integers(0, 5), st.integers(0, 3), st.lists(st.integers(0, 7), min_size=1, max_size=40), st.integers(1, 20))
def test_the_order_is_that_of_earlier_versions(seed, epoch, lengths, window):
    """Runs that were begun go on: a shuffle of the shards, then one in every window of them, with one generator."""
    rng, shards, order = rng_for(seed, epoch, "order"), list(range(len(lengths))), []
    rng.shuffle(shards)
    for first in range(0, len(shards), window):
        part = [sum(lengths[:s]) + i for s in shards[first : first + window] for i in range(lengths[s])]
        rng.shuffle(part)
        order += part
    now = EpochOrder(seed, epoch, lengths, window)
    assert list(now) == order and len(now) == len(order)
    for place in random.Random(0).sample(range(len(order)), min(20, len(order))):  # to and fro
        assert now[place] == order[place]


def test_the_order_of_one_seed_is_fixed():
    assert list(EpochOrder(0, 0, (3, 2, 4), 2)) == [7, 2, 5, 1, 6, 8, 0, 3, 4]
    assert list(EpochOrder(0, 1, (3, 2, 4), 2)) != [7, 2, 5, 1, 6, 8, 0, 3, 4]
    assert list(EpochOrder(1, 0, (3, 2, 4), 2)) != [7, 2, 5, 1, 6, 8, 0, 3, 4]


def test_the_order_takes_time_in_proportion_to_the_shards():
    started = time.perf_counter()
    assert sum(1 for _ in EpochOrder(0, 0, [1] * 40_000)) == 40_000
    assert time.perf_counter() - started < 2  # 8 s where it is quadratic


def test_an_order_holds_a_window_and_no_list_of_all_samples():
    tracemalloc.start()
    order = EpochOrder(0, 0, [200] * 40_000)
    assert len({order[place] for place in range(10_000)}) == 10_000 and len(order) == 8_000_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20  # a list of all of them takes 32 MB at least, in each of a node's workers


def test_steps_are_slices_of_one_order(folder):
    stream = Stream([Part("", Shards(folder))], seed=0, window=2)
    flat = [place.sample for step in range(4) for place in stream.step(step, 3)]
    assert flat == list(EpochOrder(0, 0, (5, 5, 2), 2))


def test_a_reader_can_be_sent_to_another_process(folder):
    shards = Shards(folder)
    _ = shards[0]
    copy = pickle.loads(pickle.dumps(shards))
    assert copy[3][0] == shards[3][0]


def test_readers_in_threads_agree(folder):
    shards = Shards(folder)
    wrong: list[int] = []

    def read() -> None:
        for i in range(len(shards)):
            if shards[i][0].key != f"sft-{i:06d}":
                wrong.append(i)
        time.sleep(0)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
