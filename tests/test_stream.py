"""The stream: mixtures, foreign shards, damage that is counted, remote shards by way of the cache."""

from __future__ import annotations

import gzip
import http.server
import io
import json
import os
import pickle
import re
import struct
import tarfile
import threading
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
import webdataset
from conftest import composed, small_model, tiny_settings
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from torch.utils.data import DataLoader

from dress.config import Mixed
from dress.curriculum import Curriculum
from dress.data import cache as cache_module
from dress.data import shards as shards_module
from dress.data.cache import FetchError, ShardCache
from dress.data.datamodule import StepDataset, rejected
from dress.data.images import Pixels
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
    """Makes a folder when it is unpickled."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self):
        return os.mkdir, (self.name,)


def payloads() -> list[tuple[str, bytes]]:
    """Files that run code in whoever decodes them by extension, as webdataset does; each would leave a folder."""
    torch_file = io.BytesIO()
    torch.save(Boom("ran-pth"), torch_file)
    return [
        ("bad0.pkl", pickle.dumps(Boom("ran-pkl"))), ("bad1.pyd", pickle.dumps(Boom("ran-pyd"))),
        ("bad2.pth", torch_file.getvalue()), ("bad3.pkl.gz", gzip.compress(pickle.dumps(Boom("ran-gz")))),
        ("bad4.pickle", pickle.dumps(Boom("ran-pickle"))),
    ]  # fmt: skip


def special(name: str, kind: bytes, size: int = 0) -> tuple[str, tarfile.TarInfo]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, "/etc/passwd" if kind in b"12" else "", size
    return name, info


def huge_png(side: int = 13_000) -> bytes:
    """20 KB that decode to 169 million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(b"\0" * (side // 8 + 1)) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.fixture
def good() -> list[tuple[str, bytes, bytes]]:
    """(key, JSON, image) of records that can be used."""
    return [(r.key, r.dump(), i) for r, i in shapes.samples("sft", 6, seed=3)]


def members_of(samples: list[tuple[str, bytes, bytes]]) -> list[tuple[str, bytes]]:
    return [pair for key, record, image in samples for pair in ((f"{key}.json", record), (f"{key}.png", image))]


def test_the_payloads_do_run_where_they_are_decoded(tmp_path, monkeypatch):
    """Else the next test would prove nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WDS_SECURE", raising=False)
    tar(tmp_path / "s.tar", payloads())
    list(webdataset.WebDataset(str(tmp_path / "s.tar"), shardshuffle=False, handler=lambda _: True).decode())
    assert len(list(tmp_path.glob("ran-*"))) == 5


def test_all_that_is_bad_is_counted_and_all_that_is_good_is_there(tmp_path, monkeypatch, good):
    monkeypatch.chdir(tmp_path)
    members = members_of(good)
    bad = [
        *payloads(), ("bomb.json.gz", gzip.compress(b" " * (8 << 20))),
        special("l.json", tarfile.SYMTYPE), special("h.json", tarfile.LNKTYPE), special("d.json", tarfile.CHRTYPE),
        special("b.json", tarfile.BLKTYPE), special("f.json", tarfile.FIFOTYPE),
        ("../up.json", b"{}"), ("a/../../up.json", b"{}"), ("/root.json", b"{}"), (f"{good[0][0]}.json", b"{}"),
        ("lonely.png", png()), ("big.json", b" " * (17 << 20)),
    ]  # fmt: skip
    folder = tmp_path / "s"
    tar(folder / "a.tar", members[:6] + bad + members[6:])
    with pytest.raises(ShardError, match=r"a\.tar: bad0\.pkl: .*data\.on_damage=skip"):
        Shards(folder)
    shards = Shards(folder, on_damage="skip")
    assert [(r.key, r.dump(), i) for r, i in shards] == good
    assert len(shards.damage) == len(bad)
    assert all(any(name in line for line in shards.damage) for name, _ in bad if name != "lonely.png")
    assert not list(tmp_path.glob("ran-*"))


@pytest.mark.parametrize("where", ["in a header", "in data", "in the end mark"])
def test_of_a_cut_shard_every_whole_sample_is_there(tmp_path, good, where):
    whole = tar(tmp_path / "s" / "a.tar", members_of(good)).read_bytes()
    with tarfile.open(tmp_path / "s" / "a.tar") as file:
        heads = [(member.offset, member.offset_data, member.size) for member in file.getmembers()]
    header, data, size = heads[9]  # the image of sample 4
    cut = {"in a header": header + 100, "in data": data + size // 2, "in the end mark": len(whole.rstrip(b"\0"))}[where]
    (tmp_path / "s" / "a.tar").write_bytes(whole[:cut])
    with pytest.raises(ShardError, match=r"a\.tar"):
        Shards(tmp_path / "s")
    shards = Shards(tmp_path / "s", on_damage="skip")
    assert shards.damage
    found = [(r.key, i) for r, i in shards]
    # Sample 4's JSON stands there without its image; training refuses it by that.
    left = 6 if where == "in the end mark" else 4
    assert found[:left] == [(key, image) for key, _, image in good[:left]]
    assert all(image is None for _, image in found[left:])


def test_headers_that_lie_about_size_take_neither_memory_nor_the_samples_before(tmp_path, good):
    longname = tarfile.TarInfo("././@LongLink")
    longname.type, longname.size = tarfile.GNUTYPE_LONGNAME, 1 << 32
    folder = tmp_path / "s"
    tar(folder / "a.tar", [*members_of(good), ("", longname)])
    shards = Shards(folder, on_damage="skip")
    assert keys(shards) == [key for key, _, _ in good] and "a header of 4294967296 bytes" in shards.damage[0]
    lying = tarfile.TarInfo("z.png")
    lying.size = 1 << 32
    tar(folder / "a.tar", [*members_of(good), ("", lying)])
    assert keys(Shards(folder, on_damage="skip")) == [key for key, _, _ in good]
    (folder / "a.tar").write_bytes(gzip.compress(b"\0" * (64 << 20)))  # a bomb under a shard's name
    with pytest.raises(ShardError, match=r"a\.tar: .*expected a whole tar file"):
        Shards(folder)


BAD_JSON = {
    "deep": b"[" * 10_000 + b"]" * 10_000,
    "deep-extra": b'{"key": "a", "extra": ' + b'{"a": ' * 10_000 + b"1" + b"}" * 10_001,
    "utf16": '{"key": "a"}'.encode("utf-16"),
    "number": b'{"key": "a", "image": 3}',
    "list": b'{"key": "a", "image": ["x.jpg"]}',
    "null": b"null",
    "up": b'{"key": "../a"}',
}


@pytest.mark.parametrize("text", BAD_JSON.values(), ids=BAD_JSON)
def test_json_that_is_no_record_is_named(tmp_path, text):
    tar(tmp_path / "s.tar", [("a.json", text)])
    with pytest.raises(RecordError, match=r"s\.tar: a"):
        Shards(tmp_path)[0]


def test_a_json_of_100_mb_is_refused_from_its_header(tmp_path, good):
    """Sparse on disk: nobody may read it."""
    path = tar(tmp_path / "s" / "a.tar", members_of(good))
    end = len(path.read_bytes().rstrip(b"\0")) // 512 * 512 + 512
    info = tarfile.TarInfo("huge.json")
    info.size = 100 << 20
    with path.open("r+b") as file:
        file.seek(end)
        file.write(info.tobuf())
        file.truncate(end + 512 + info.size + 1024)
    shards = Shards(tmp_path / "s", on_damage="skip")
    assert keys(shards) == [key for key, _, _ in good]
    assert any(f"huge.json: expected at most 16777216 bytes, got {100 << 20}" in line for line in shards.damage)


def test_a_whole_training_stage_passes_over_what_is_bad_and_learns_from_all_that_is_good(tmp_path, good, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = json.loads(good[0][1])
    pictures = {"huge": huge_png(), "noimage": b"no image", "cut": good[0][2][:60]}
    bad = [(f"{name}.json", text) for name, text in BAD_JSON.items()]
    for name, picture in pictures.items():
        bad += [(f"{name}.json", json.dumps({**record, "key": name}).encode()), (f"{name}.png", picture)]
    folder = tmp_path / "data" / "sft"
    tar(folder / "a.tar", members_of(good[:3]) + payloads() + bad + members_of(good[3:]))
    for split in ("align", "prompts", "eval"):
        write_shards(tmp_path / "data" / split, shapes.samples(split, 4, seed=1))
    learned = []
    made = StepDataset.made

    def noted(self, record, *rest):
        sample = made(self, record, *rest)
        learned.append(record.key)
        return sample

    monkeypatch.setattr(StepDataset, "made", noted)
    size = 6 + len(BAD_JSON) + len(pictures)
    arguments = [
        "curriculum.order=[sft]", "budget.sft.steps=2", f"budget.sft.records_per_step={size}", "data=shards",
        "annotator=oracle", "judge=oracle", f"data.path={tmp_path / 'data'}",
    ]  # fmt: skip
    with pytest.raises(ShardError, match=r"bad0\.pkl"):
        Curriculum(tiny_settings(tmp_path, *arguments), Console(quiet=True)).run()
    out = io.StringIO()
    run = tiny_settings(tmp_path, *arguments, "data.on_damage=skip")
    Curriculum(run, Console(file=out, width=400)).run()
    assert Counter(learned) == Counter({key: 2 for key, _, _ in good})  # two epochs
    assert not list(tmp_path.glob("ran-*"))
    reasons = rejected(tmp_path / "run" / "stages" / "sft" / "rejects.jsonl")
    assert reasons.total() == len(payloads()) + len(BAD_JSON) + len(pictures)
    assert f"stage sft: {reasons.total()} set aside" in out.getvalue()
    assert any("image is 13000 x 13000" in reason for reason in reasons)


def test_collect_and_eval_pass_over_what_is_bad_too(tmp_path, good):
    cut = json.dumps({**json.loads(good[0][1]), "key": "cut"}).encode()
    tar(tmp_path / "a.tar", [("deep.json", BAD_JSON["deep"]), ("cut.json", cut), ("cut.png", good[0][2][:60])])
    tar(tmp_path / "b.tar", members_of(good))
    shards = Shards(tmp_path, on_damage="skip")
    assert [record.key for record, _ in shards.readable(range(len(shards)))] == [key for key, _, _ in good]
    assert len(shards.skipped) == 2
    with pytest.raises(RecordError, match=r"a\.tar: deep.*data\.on_damage=skip"):
        list(Shards(tmp_path).readable(range(3)))


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
    packed = False
    """Claim that bodies are gzip."""

    def end_headers(self) -> None:
        path = Path(self.translate_path(self.path))
        if path.is_file():
            self.send_header("ETag", f'"{zlib.crc32(path.read_bytes()):08x}"')
        if self.packed:
            self.send_header("Content-Encoding", "gzip")
        super().end_headers()

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
    Dropping.served, Dropping.packed = 0, False
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


def flip(path: Path) -> None:
    """Change a byte; size and times stay."""
    data, times = bytearray(path.read_bytes()), path.stat()
    data[600] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_remote_shard_that_changed_under_its_size_is_found_by_its_etag_before_training(server, tmp_path):
    url, folder = server
    cache = ShardCache(str(tmp_path / "cache"))
    assert open_shards(url, cache=cache)[0]  # its tags are known from now on; one shard is in the cache
    for changed in ("shard-000000.tar", "shard-000003.tar"):  # the one in the cache, and one that is not
        flip(folder / changed)
        with pytest.raises(ShardError, match=rf"{changed}: expected sha256 .*fetched twice"):
            open_shards(url, cache=cache)
        skipping = open_shards(url, on_damage="skip", cache=cache)
        assert len(skipping) == 35 and changed in skipping.damage[0]
        flip(folder / changed)
        assert len(open_shards(url, cache=cache)) == 40
    (folder / "shard-000001.tar").touch()  # another time, the same bytes


def test_verify_full_finds_a_remote_shard_that_was_never_the_one_indexed(server, tmp_path):
    url, folder = server
    flip(folder / "shard-000002.tar")
    assert len(open_shards(url, cache=ShardCache(str(tmp_path / "a")))) == 40
    with pytest.raises(ShardError, match=r"shard-000002\.tar: expected sha256"):
        open_shards(url, verify="full", cache=ShardCache(str(tmp_path / "b")))


def test_a_copy_that_rotted_in_the_cache_is_fetched_again(server, tmp_path):
    url, folder = server
    cache = ShardCache(str(tmp_path / "cache"))
    assert keys(open_shards(url, cache=cache)) == keys(Shards(folder))
    (copy,) = (tmp_path / "cache").glob("*-shard-000004.tar")
    flip(copy)
    shards = open_shards(url, verify="full", cache=cache)
    assert keys(shards) == keys(Shards(folder)) and not shards.damage


def test_training_passes_over_a_remote_shard_that_changed_and_names_its_records(server, tmp_path):
    url, folder = server
    flip(folder / "shard-000002.tar")
    data = composed("data=shards", f"data.path={url}", "data.on_damage=skip", f"data.cache_dir={tmp_path / 'c'}").data
    plain = composed()
    stage = plain.curriculum.stages["sft"].model_copy(update={"records_per_step": 40})
    shards = open_shards(url, on_damage="skip", cache=ShardCache(str(tmp_path / "c")))
    file = tmp_path / "rejects.jsonl"
    dataset = StepDataset(Stream([Part("", shards)], 0), stage, data, plain.phases, None, None, file)
    dataset.made = lambda record, *_: record.key
    dataset.collated = list
    assert sorted(filter(None, dataset[0])) == sorted(
        set(keys(Shards(folder))) - {f"sft-{i:06d}" for i in range(10, 15)}
    )
    assert rejected(file).total() == 5


def test_what_a_server_claims_to_have_packed_is_never_unpacked(server, tmp_path):
    url, folder = server
    Dropping.packed = True
    index = (folder / "index.json").read_bytes()
    (folder / "index.json").write_bytes(gzip.compress(index))
    with pytest.raises(ShardError, match=r"index\.json: expected an index of version 3"):
        open_shards(url, cache=ShardCache(str(tmp_path / "cache")))


def test_an_index_that_others_wrote_is_checked(server, tmp_path):
    url, folder = server
    index = json.loads((folder / "index.json").read_text())
    index["shards"][0]["samples"][0][1]["json"] = [0, 1 << 40]
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(ShardError, match=r"shards\.0\.samples\.0.*less than or equal to"):
        open_shards(url, cache=ShardCache(str(tmp_path / "cache")))


def test_a_mixture_whose_windows_do_not_fit_into_the_cache_together_is_refused(server, tmp_path):
    url, folder = server
    need = 2 * max(path.stat().st_size for path in folder.glob("*.tar")) / 1e9
    mixture = f"data.sft={{a: {{path: '{url}'}}, b: {{path: '{url}/shard-{{000000..000007}}.tar'}}}}"
    more = ["data=shards", "data.path=x", "data.window=2", f"data.cache_dir={tmp_path / 'c'}"]
    data = composed(*more, mixture, f"data.cache_gb={1.1 * need}").data
    with pytest.raises(ValueError, match=r"data\.window=2: the windows of a, b take up to .*data\.cache_gb"):
        open_stream(data.sft, "x", data, seed=0)
    assert open_stream(data.sft, "x", data.model_copy(update={"cache_gb": 2.1 * need}), seed=0)


def test_any_filesystem_of_fsspec_serves(server, tmp_path):
    import fsspec

    _, folder = server
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/set", recursive=True)
    shards = open_shards("memory://set", cache=ShardCache(str(tmp_path / "cache")))
    assert keys(shards) == keys(Shards(folder))
    with pytest.raises(ValueError, match="fsspec cannot open nowhere://"):
        open_shards("nowhere://set", cache=ShardCache(str(tmp_path / "cache")))


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


# --- workers, ranks, randomness ---


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


class _Steps(StepDataset):
    """What a rank trains on in a step, as (key, a random number of that sample)."""

    def made(self, record, picture, where, rng):
        return record.key, rng.random()

    def collated(self, samples):
        return list(samples)


def steps(folder: Path, rank: int, world: int, size: int = 10) -> _Steps:
    plain = composed()
    stage = plain.curriculum.stages["sft"].model_copy(update={"records_per_step": size, "steps": 8})
    stream = Stream([Part("", Shards(folder))], seed=5)
    return _Steps(stream, stage, plain.data, plain.phases, None, None, folder / "r", False, rank, world)


def test_ranks_share_a_step_evenly_and_no_worker_of_any_kind_reads_what_another_does(tmp_path, monkeypatch):
    write_shards(tmp_path, shapes.samples("sft", 40, seed=3), per_shard=5)
    whole = [steps(tmp_path, 0, 1)[n] for n in range(8)]
    assert len({key for step in whole[:4] for key, _ in step}) == 40  # an epoch: each once
    monkeypatch.setenv("RANK", "7")  # what a worker could find out by itself is not asked
    monkeypatch.setenv("WORLD_SIZE", "9")
    for world in (2, 3):
        parts = []
        for rank in range(world):
            how = {"num_workers": 2, "multiprocessing_context": "forkserver"} if world == 2 else {}
            parts.append(list(DataLoader(steps(tmp_path, rank, world), batch_size=None, **how)))
        for number, step in enumerate(whole):
            share = [part[number] for part in parts]
            assert sorted(map(tuple, sum(share, []))) == sorted(step)
            assert max(map(len, share)) - min(map(len, share)) <= 1


def test_randomness_is_of_seed_epoch_and_sample_alone(tmp_path):
    write_shards(tmp_path, shapes.samples("sft", 20, seed=3), per_shard=5)
    first = dict(steps(tmp_path, 0, 1)[0] + steps(tmp_path, 0, 1)[1])
    again = dict(steps(tmp_path, 0, 1, size=5)[3] + steps(tmp_path, 1, 2)[1])
    assert again.items() <= first.items()
    later = dict(steps(tmp_path, 0, 1)[2] + steps(tmp_path, 0, 1)[3])
    assert later.keys() == first.keys() and not set(later.values()) & set(first.values())


def test_some_dialogues_of_a_record_are_drawn_anew_in_each_epoch(tmp_path, tokenizer):
    write_shards(tmp_path, shapes.samples("sft", 1, seed=3))
    plain, model = composed("data.dialogues_per_record=1"), small_model(tokenizer)
    stage = plain.curriculum.stages["sft"].model_copy(update={"records_per_step": 1})

    def drawn(data, step: int) -> int:
        stream = Stream([Part("", Shards(tmp_path))], seed=5)
        pixels = Pixels(model.vision.preprocessing, model.vision.transform, data.images)
        dataset = StepDataset(stream, stage, data, plain.phases, model.encoder, pixels, tmp_path / "r")
        return dataset[step].forests[0].tokens

    assert max(drawn(plain.data, step) for step in range(8)) < drawn(composed().data, 0)
    assert len({drawn(plain.data, step) for step in range(8)}) > 1
    assert drawn(plain.data, 3) == drawn(plain.data, 3)


def test_more_shards_than_open_files_are_read_by_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(shards_module, "OPEN_FILES", 2)
    write_shards(tmp_path, shapes.samples("sft", 24, seed=3), per_shard=2)
    shards = Shards(tmp_path)
    expected = [shards.record(i).key for i in range(24)]
    before = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(8) as pool:
        order = [i for seed in range(8) for i in random.Random(seed).sample(range(24), 24)]
        assert list(pool.map(lambda i: shards.record(i).key, order)) == [expected[i] for i in order]
    assert len(os.listdir("/proc/self/fd")) <= before + 8


def test_a_shard_that_is_cut_while_it_is_read_is_named(tmp_path):
    write_shards(tmp_path, shapes.samples("sft", 6, seed=3), per_shard=6)
    shards = Shards(tmp_path)
    assert shards[0]
    os.truncate(tmp_path / "shard-000000.tar", 3000)
    with pytest.raises(RecordError, match=r"shard-000000\.tar: expected \d+ bytes at \d+, got 0: the shard was cut"):
        shards[5]
