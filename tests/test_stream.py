"""The stream: mixtures, foreign shards, damage that is counted, remote shards by way of the cache."""

from __future__ import annotations

import http.server
import io
import json
import os
import pickle
import re
import tarfile
import threading
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import webdataset
from conftest import composed
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from torch.utils.data import DataLoader

from dress.config import Mixed
from dress.data import cache as cache_module
from dress.data.cache import FetchError, ShardCache
from dress.data.index_task import run as index_task
from dress.data.order import BLOCK, mixed, quotas
from dress.data.remote import open_shards
from dress.data.shards import ShardError, Shards, write_shards
from dress.data.stream import Part, Stream, open_stream
from dress.data.tasks import Index
from dress.record import RecordError
from dress.worlds.shapes import generate as shapes


def png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(out, "PNG")
    return out.getvalue()


def tar(path: Path, members: list[tuple[str, bytes | tarfile.TarInfo]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, content in members:
            if isinstance(content, tarfile.TarInfo):
                file.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def keys(shards) -> list[str]:
    return [record.key for record, _ in shards]


# --- mixtures ---


@given(st.lists(st.floats(0.01, 10), min_size=2, max_size=5), st.integers(0, 3), st.integers(0, 3 * BLOCK))
@settings(max_examples=40, deadline=None)
def test_a_mixture_loses_and_repeats_nothing(weights, seed, start):
    counts = tuple(quotas(weights))
    assert sum(counts) == BLOCK
    assert all(abs(c / BLOCK - w / sum(weights)) <= 1 / BLOCK for c, w in zip(counts, weights, strict=True))
    places = [mixed(p, seed, counts) for p in range(start + 500)]
    for part in range(len(weights)):
        own = [place for owner, place in places if owner == part]
        assert own == list(range(len(own)))  # each dataset's own order, without gap or repetition
    assert [mixed(p, seed, counts) for p in range(start, start + 500)] == places[start:]


def test_a_weight_that_gets_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1/4096"):
        quotas([1.0, 1e-5])


def test_datasets_are_mixed_by_weight_and_each_goes_through_its_own_epochs(tmp_path):
    for name, number, seed in (("a", 30, 1), ("b", 12, 2)):
        write_shards(tmp_path / name, shapes.samples("sft", number, seed=seed), per_shard=10)
    data = composed(
        f"data.path={tmp_path}", "data.sft={one: {path: a, weight: 3}, two: {path: b}}", "data=shards"
    ).data  # fmt: skip
    assert data.sft == {"one": Mixed(path="a", weight=3), "two": Mixed(path="b")}
    stream = open_stream(data.sft, tmp_path, data, seed=5)
    places = [stream.at(p) for p in range(BLOCK)]
    assert Counter(place.part for place in places) == {0: 3 * BLOCK // 4, 1: BLOCK // 4}
    for part, size in ((0, 30), (1, 12)):
        own = [place.sample for place in places if place.part == part]
        assert all(sorted(own[i : i + size]) == list(range(size)) for i in range(0, len(own) - size, size))
    assert stream[places[0]][0].key in {r.key for p in stream.parts for r, _ in p.shards}
    again = open_stream(data.sft, tmp_path, data, seed=5)
    assert again.fingerprint == stream.fingerprint
    assert Stream([Part("one", stream.parts[0].shards)], 5).fingerprint != stream.fingerprint


# --- anybody's shards ---


def test_shards_of_plain_webdataset_are_read_after_indexing(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "x-000000.tar")) as writer:
        for number in range(3):
            writer.write({"__key__": f"part/{number:03d}", "png": png(), "txt": f"a red square {number}", "cls": 1})
    with pytest.raises(ShardError, match=r"got \.cls; other kinds of file are never decoded"):
        Shards(tmp_path)
    out = io.StringIO()
    index_task(Index(task="index", path=str(tmp_path), ignore=["cls"]), Console(file=out, width=120))
    assert re.search(r"samples \(captions\)\s+│\s+3", out.getvalue()), out.getvalue()
    shards = Shards(tmp_path)
    record, image = shards[1]
    assert (record.key, record.annotation.captions, image) == ("part-001", ["a red square 1"], png())


def test_captions_in_json_and_none_at_all(tmp_path):
    members = [("a.jpg", png()), ("a.json", b'{"caption": "a dog", "url": "x"}'), ("b.jpg", png()), ("b.json", b"{}")]
    tar(tmp_path / "s.tar", members)
    index_task(Index(task="index", path=str(tmp_path)), Console(quiet=True))
    shards = Shards(tmp_path)
    assert shards[0][0].annotation.captions == ["a dog"]
    with pytest.raises(RecordError, match=r"s\.tar: b: expected a caption"):
        shards[1]


# --- damage ---


class Boom:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def link(name: str, kind: bytes) -> tuple[str, tarfile.TarInfo]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return name, info


def test_all_that_is_bad_is_counted_and_all_that_is_good_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good = [(r.key, r.dump(), i) for r, i in shapes.samples("sft", 6, seed=3)]
    members: list = []
    for key, record, image in good:
        members += [(f"{key}.json", record), (f"{key}.png", image)]
    bomb = pickle.dumps(Boom())
    bad = [
        *((f"bad{i}.{ext}", bomb) for i, ext in enumerate(("pkl", "pyd", "pth", "pkl.gz", "json.gz"))),
        link("l.json", tarfile.SYMTYPE), link("h.json", tarfile.LNKTYPE), link("d.json", tarfile.CHRTYPE),
        ("../up.json", b"{}"), ("/root.json", b"{}"), (f"{good[0][0]}.json", b"{}"), ("lonely.png", png()),
        ("big.json", b" " * (17 << 20)),
    ]  # fmt: skip
    folder = tmp_path / "s"
    tar(folder / "a.tar", members[:6] + bad + members[6:])
    with pytest.raises(ShardError, match=r"a\.tar: bad0\.pkl: .*data\.on_damage=skip"):
        Shards(folder)
    shards = Shards(folder, on_damage="skip")
    assert keys(shards) == [key for key, _, _ in good]
    assert len(shards.damage) == len(bad)
    assert not (tmp_path / "executed").exists()
    whole = (folder / "a.tar").read_bytes()
    end = len(whole.rstrip(b"\0"))
    for cut in (end - 100, 512 * 3 + 17):  # inside data, inside a header
        (folder / "a.tar").write_bytes(whole[:cut])
        try:
            found = keys(Shards(folder, on_damage="skip"))
        except ShardError as error:
            assert "expected samples" in str(error)
            continue
        assert found == [key for key, _, _ in good][: len(found)]


@pytest.mark.parametrize(
    "text",
    [b"[" * 10_000 + b"]" * 10_000, '{"key": "a"}'.encode("utf-16"), b'{"key": "a", "image": 3}', b"null"],
    ids=["deep", "utf16", "number", "null"],
)
def test_json_that_is_no_record_is_set_aside(tmp_path, text):
    tar(tmp_path / "s.tar", [("a.json", text)])
    with pytest.raises(RecordError, match=r"s\.tar: a"):
        Shards(tmp_path)[0]


def test_missing_and_changed_shards_are_named_or_counted(tmp_path):
    write_shards(tmp_path, shapes.samples("sft", 30, seed=3), per_shard=10)
    Shards(tmp_path)
    (tmp_path / "shard-000001.tar").unlink()
    with pytest.raises(ShardError, match=r"shard-000001\.tar: expected this shard"):
        Shards(tmp_path)
    shards = Shards(tmp_path, on_damage="skip")
    assert len(shards) == 20 and len(shards.damage) == 1
    path = tmp_path / "shard-000002.tar"
    data, times = bytearray(path.read_bytes()), path.stat()
    data[700] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a disk that rots
    assert len(Shards(tmp_path, on_damage="skip")) == 20
    assert len(Shards(tmp_path, on_damage="skip", verify="full")) == 10


# --- remote ---


class Dropping(http.server.SimpleHTTPRequestHandler):
    """Serves ranges; every third answer with a body breaks off in the middle."""

    protocol_version = "HTTP/1.1"
    served = 0

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data, status = path.read_bytes(), 200
        asked = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            data, status = data[int(asked[1]) : int(asked[2] or len(data)) + 1], 206
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        type(self).served += 1
        if type(self).served % 3 == 0:
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    write_shards(folder, shapes.samples("sft", 40, seed=3), per_shard=5)
    Shards(folder)  # writes index.json
    Dropping.served = 0
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Dropping, directory=str(folder)))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}", folder
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    monkeypatch.setattr(cache_module, "PIECE", 16 << 10)


def test_remote_shards_are_read_through_a_bounded_checked_cache(server, tmp_path):
    url, folder = server
    size = max(path.stat().st_size for path in folder.glob("*.tar"))
    cache = ShardCache(str(tmp_path / "cache"), gigabytes=3.5 * size / 1e9)
    shards = open_shards(url, cache=cache, window=2)
    assert keys(shards) == keys(Shards(folder))
    assert shards.fingerprint == Shards(folder).fingerprint
    assert cache.retries > 0  # connections were dropped
    held = [path.stat().st_size for path in (tmp_path / "cache").glob("*.tar")]
    assert len(held) >= 2 and sum(held) <= cache.bytes
    braces = open_shards(url + "/shard-{000000..000007}.tar", cache=cache, window=2)
    assert keys(braces) == keys(shards)


def test_a_window_larger_than_the_cache_is_refused(server, tmp_path):
    url, _ = server
    with pytest.raises(ValueError, match=r"data\.window=4.*data\.cache_gb"):
        open_shards(url, cache=ShardCache(str(tmp_path / "cache"), 1e-4), window=4)


def test_a_remote_shard_that_is_missing_or_another_is_named(server, tmp_path):
    url, folder = server
    changed = folder / "shard-000001.tar"
    data = bytearray(changed.read_bytes())
    data[600] ^= 1
    changed.write_bytes(data)
    shards = open_shards(url, cache=ShardCache(str(tmp_path / "cache")))
    with pytest.raises(FetchError, match=r"shard-000001\.tar: expected sha256 .*fetched twice"):
        shards[5]
    assert shards[0]
    (folder / "shard-000002.tar").unlink()
    with pytest.raises(ShardError, match=r"shard-000002\.tar: expected .* found none"):
        open_shards(url, cache=ShardCache(str(tmp_path / "cache")))
    skipping = open_shards(url, on_damage="skip", cache=ShardCache(str(tmp_path / "cache")))
    assert len(skipping) == 35 and len(skipping.damage) == 1


def test_a_pipe_runs_only_if_allowed(tmp_path):
    write_shards(tmp_path / "s", shapes.samples("sft", 3, seed=3))
    url = f"pipe:cat {tmp_path / 's' / 'shard-000000.tar'}"
    with pytest.raises(ValueError, match=r"data\.allow_pipe=true"):
        open_shards(url, cache=ShardCache(str(tmp_path / "no")))
    allowed = open_shards(url, cache=ShardCache(str(tmp_path / "yes"), allow_pipe=True))
    assert keys(allowed) == keys(Shards(tmp_path / "s"))


class _Keys:
    """A map-style dataset of keys, to be sent to workers."""

    def __init__(self, shards: Shards) -> None:
        self.shards = shards

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, index: int) -> str:
        return self.shards[index][0].key


@pytest.mark.parametrize("method", ["fork", "forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_of_every_kind_read_remote_shards(server, tmp_path, method):
    url, folder = server
    shards = open_shards(url, cache=ShardCache(str(tmp_path / "cache")))
    assert shards[0]
    loader = DataLoader(_Keys(shards), batch_size=None, num_workers=1, multiprocessing_context=method)
    assert list(loader) == keys(Shards(folder))


def test_the_index_is_plain_json_and_names_its_version(tmp_path):
    write_shards(tmp_path, shapes.samples("sft", 3, seed=3))
    Shards(tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    assert index["version"] == 3 and index["shards"][0].keys() >= {"name", "size", "mtime_ns", "sha256", "samples"}
