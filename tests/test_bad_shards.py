"""Bad shards: everything bad is counted and named, nothing executes, and every good record is there."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import tarfile
from collections import Counter

import pytest
import torch
import webdataset
from conftest import huge_png, keys, png, tar, tiny_settings
from rich.console import Console

from dress.data.shards import ShardError, Shards, write_shards
from dress.record import RecordError
from dress.train.curriculum import Curriculum
from dress.train.datamodule import rejected
from dress.train.examples import Examples
from dress.worlds.shapes import generate as shapes


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
    (folder / "a.tar").write_bytes(gzip.compress(b"\0" * (64 << 20), mtime=0))  # a bomb under a shard's name
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
    build = Examples.build

    def noted(self, record, *rest):
        example = build(self, record, *rest)
        learned.append(record.key)
        return example

    monkeypatch.setattr(Examples, "build", noted)
    size = 6 + len(BAD_JSON) + len(pictures)
    arguments = [
        "curriculum.run=[sft]", "curriculum.stages.sft.weights=null", "curriculum.stages.sft.steps=2",
        f"curriculum.stages.sft.records_per_step={size}", "data=shards",
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
