"""Shards, indices and what lies beside them as others hand them over: damaged at random, by hand, and at scale."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import re
import shutil
import tarfile
from pathlib import Path

import pytest
from conftest import png, tar
from imports import do_import, json_lines, photos
from rich.console import Console

from dress.config.tasks import Index
from dress.data import index_task
from dress.data.cache import ShardCache
from dress.data.index import index_shard
from dress.data.index_file import INDEX
from dress.data.opening import known_checksums
from dress.data.shards import ShardError, Shards, write_shards
from dress.record import MAX_PARTS, Record, RecordError
from dress.worlds.shapes import generate as shapes

Content = dict[str, tuple[bytes, bytes | None]]


@pytest.fixture(scope="module")
def imported(tmp_path_factory) -> Path:
    """An import of 12 rows of two shards a split, with its index."""
    folder = tmp_path_factory.mktemp("imported")
    photos(folder / "in", *(f"{n}.jpg" for n in range(12)))
    json_lines(folder / "in" / "rows.jsonl", [{"image": f"{n}.jpg", "caption": f"photo {n}"} for n in range(12)])
    do_import("captions", folder / "in", folder / "out", per_shard=6, held_out=0)
    return folder / "out"


def content(folder: Path, on_damage: str, verify: str = "full") -> tuple[Content, int]:
    """Key to JSON and image of all that can be read, and how much is named as damaged."""
    shards = Shards(folder, on_damage, verify)
    found = {record.key: (record.dump(), image) for record, image in shards.readable(range(len(shards)))}
    return found, len(shards.damage) + len(shards.skipped)


def damage(data: bytes, rng: random.Random) -> bytes:
    """Flipped bytes, a cut, a block of zeros, or a block twice."""
    out, at = bytearray(data), rng.randrange(len(data))
    block = slice(at // 512 * 512, at // 512 * 512 + 512)
    match rng.randrange(4):
        case 0:
            for place in (at, *rng.sample(range(len(data)), rng.randrange(4))):
                out[place] ^= 1 << rng.randrange(8)
        case 1:
            del out[at:]
        case 2:
            out[block] = bytes(len(out[block]))
        case 3:
            out[block] = out[block] * 2
    return bytes(out)


def try_damages(imported: Path, tmp_path: Path, number: int, seed: int) -> None:
    """Every one of `number` damages is named; what is read is what was written."""
    rng, good = random.Random(seed), content(imported / "align", "stop")[0]
    assert len(good) == 12
    for n in range(number):
        out = tmp_path / str(n)
        shutil.copytree(imported, out)
        path = rng.choice(sorted(out.glob("align/*.tar")))
        before, times = path.read_bytes(), path.stat()
        path.write_bytes(after := damage(before, rng))
        if after == before:
            continue
        if rng.random() < 0.5:
            (out / "align" / INDEX).unlink()  # only import.json knows
        else:
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a disk that rots
        with pytest.raises((ValueError, OSError), match=re.escape(path.name)):
            content(out / "align", "stop")
        found, named = content(out / "align", "skip")
        assert named and found.items() <= good.items() and len(found) >= 6, f"damage {n} of seed {seed}"
        shutil.rmtree(out)


def test_two_hundred_damages_are_named_and_nothing_else_is_read(imported, tmp_path):
    try_damages(imported, tmp_path, 200, seed=0)


@pytest.mark.slow
def test_three_thousand_damages_are_named_and_nothing_else_is_read(imported, tmp_path):
    try_damages(imported, tmp_path, 3000, seed=1)


def test_damage_without_any_checksum_ends_with_a_name_and_leaves_whole_images(tmp_path):
    """Nothing but a record's own sha256 of its image is known; JSON that is still JSON cannot be told."""
    rng, samples = random.Random(2), []
    for record, image in shapes.samples("sft", 6, seed=3):
        assert record.image is not None and image is not None
        about = record.image.model_copy(update={"sha256": hashlib.sha256(image).hexdigest()})
        samples.append((record.model_copy(update={"image": about}), image))
    write_shards(tmp_path / "s", samples)
    path, good = tmp_path / "s" / "shard-000000.tar", {record.key: image for record, image in samples}
    whole = path.read_bytes()
    for n in range(200):
        (tmp_path / "s" / INDEX).unlink(missing_ok=True)
        path.write_bytes(damage(whole, rng))
        try:
            found, named = content(tmp_path / "s", "skip")
        except (ValueError, OSError) as error:
            assert path.name in str(error) or "s: expected samples" in str(error)
            continue
        lost = good.keys() - found.keys()
        assert named >= bool(lost), f"damage {n}"
        assert all(image in (None, good.get(key, image)) for key, (_, image) in found.items()), f"damage {n}"


def try_mutations(imported: Path, tmp_path: Path, number: int, seed: int) -> None:
    rng, good = random.Random(seed), content(imported / "align", "stop")[0]
    shutil.copytree(imported, tmp_path / "out")
    index = tmp_path / "out" / "align" / INDEX
    whole = index.read_bytes()
    for n in range(number):
        changed = damage(whole, rng)
        index.write_bytes(changed)
        if changed != whole:
            with pytest.raises(ShardError, match=r"index\.arrow: .*[Dd]elete it"):
                content(index.parent, "stop", "quick")
            assert index.read_bytes() == changed
        assert content(index.parent, "skip", "quick")[0] == good, f"mutation {n} of seed {seed}"


def test_an_index_that_was_changed_is_named_and_made_anew(imported, tmp_path):
    try_mutations(imported, tmp_path, 150, seed=0)
    (tmp_path / "out" / "align" / INDEX).unlink()
    assert content(tmp_path / "out" / "align", "stop", "quick")[0] == content(imported / "align", "stop")[0]


@pytest.mark.slow
def test_an_index_that_was_changed_in_1500_ways_is_named(imported, tmp_path):
    try_mutations(imported, tmp_path, 1500, seed=1)


# --- what an import and a published dataset say ----------------------------------------------------


def test_an_import_writes_the_index_and_the_first_reading_compares_its_checksums(imported, tmp_path):
    assert (imported / "align" / INDEX).is_file()
    before = (imported / "align" / INDEX).read_bytes()
    Shards(imported / "align", verify="full")
    assert (imported / "align" / INDEX).read_bytes() == before  # nothing to add
    shutil.copytree(imported, tmp_path / "out")
    folder = tmp_path / "out" / "align"
    (folder / INDEX).unlink()
    path = folder / "shard-000001.tar"
    at = path.read_bytes().index(b"photo")
    path.write_bytes(path.read_bytes().replace(b"photo", b"phoTo", 1))
    assert at
    with pytest.raises(ShardError, match=r"shard-000001\.tar: .*imported .*import\.json"):
        Shards(folder)
    assert len(Shards(folder, on_damage="skip")) == 6
    with pytest.raises(ShardError, match=r"import\.json: expected the checksums"):
        (tmp_path / "out" / "import.json").write_text("{")
        Shards(folder)
    (tmp_path / "out" / "import.json").unlink()
    lines = [
        f"{sha256}  align/{name}\n" for name, sha256 in known_checksums(imported / "align").items() if "/" not in name
    ]
    (tmp_path / "out" / "SHA256SUMS").write_text("".join(lines))
    with pytest.raises(ShardError, match=r"shard-000001\.tar"):
        Shards(folder)


def record(key: str, image: bytes | None = None, **more) -> bytes:
    about = {} if image is None else {"image": {"id": key, "sha256": hashlib.sha256(image).hexdigest()}}
    return json.dumps({"key": key, "annotation": {"captions": ["c"]}, **about, **more}).encode()


def indexed(folder: Path, **more) -> str:
    """What `task=index` prints."""
    out = io.StringIO()
    index_task.run(Index(task="index", path=str(folder), **more), Console(file=out, width=300))
    return out.getvalue()


def test_an_image_that_is_not_its_records_is_named(tmp_path):
    other = png() + b"\0"
    members = [("a.json", record("a", png())), ("a.png", png()), ("b.json", record("b", png())), ("b.png", other)]
    tar(tmp_path / "s.tar", members)
    with pytest.raises(ShardError, match=r"s\.tar: b: image\.sha256: expected an image of"):
        Shards(tmp_path, verify="full")
    assert [r.key for r, _ in Shards(tmp_path, "skip", "full")] == ["a"]
    assert "s.tar: b: image.sha256" in indexed(tmp_path)
    assert [r.key for r, _ in Shards(tmp_path, "skip")] == ["a"]


# --- tar files -------------------------------------------------------------------------------------


def test_a_tar_is_read_to_its_last_byte(tmp_path):
    path = tar(tmp_path / "s.tar", [(f"{n}.json", record(str(n))) for n in range(4)])
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(5 << 20))
    assert len(Shards(tmp_path)) == 4
    (tmp_path / INDEX).unlink()
    path.write_bytes(whole + bytes(3 << 20) + b"x" + bytes(99))
    with pytest.raises(ShardError, match=rf"s\.tar: .*others at byte {len(whole) + (3 << 20)};"):
        Shards(tmp_path)
    path.write_bytes(whole * 2)
    with pytest.raises(ShardError, match=rf"s\.tar: .*others at byte {len(whole)}; 4 samples"):
        Shards(tmp_path)
    path.write_bytes(whole[:2048] + bytes(512) + whole[2560:])
    with pytest.raises(ShardError, match=r"s\.tar: .*others at byte 2560; 2 samples"):
        Shards(tmp_path)


def header(name: str, size: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(name: str, **fields: str) -> bytes:
    info = tarfile.TarInfo(name)
    info.pax_headers = fields
    return info.tobuf(tarfile.PAX_FORMAT)


HEADERS = {
    "negative": header("bad.json", b"\xff" * 10 + b"\xfe\x00"),
    "8EB": header("bad.json", b"\x80\0\0\0" + (1 << 63).to_bytes(8, "big")),
    "huge": header("bad.json", b"\x80" + b"\xff" * 11),
    "no number": header("bad.json", b"zzzzzzzzzzz\0"),
    "pax negative": pax("bad.json", size="-1024"),
    "pax huge": pax("bad.json", size="9" * 30),
    "pax sparse": pax("bad.json", **{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1"}),
    "pax sparse map": pax("bad.json", **{"GNU.sparse.map": "a,b"}),
    "control": pax("b\x1b[31mad.json"),
    "surrogate": header("bad.json", b"00000000000\0").replace(b"bad", b"b\xffd"),
}


@pytest.mark.parametrize("block", HEADERS.values(), ids=HEADERS)
def test_headers_that_lie_are_named_with_their_shard_and_do_not_hang(tmp_path, block):
    path = tar(tmp_path / "s.tar", [("good.json", record("good"))])
    whole = path.read_bytes()
    path.write_bytes(whole[:1024] + block + whole[1024:])
    with pytest.raises(ShardError, match=r"s\.tar: .*data\.on_damage=skip") as error:
        Shards(tmp_path)
    assert str(error.value).isprintable()
    shards = Shards(tmp_path, on_damage="skip")
    assert [record.key for record, _ in shards] == ["good"] and shards.damage
    assert "problems" in indexed(tmp_path)


@pytest.mark.parametrize("name", ["s.tar", "index.arrow", "index.json", "import.json"])
@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "nowhere"])
def test_only_regular_files_are_read(tmp_path, name, kind):
    """A FIFO or an endless device would never end."""
    folder = tmp_path / "d"
    tar(folder / "a.tar", [("a.json", record("a"))])
    match kind:
        case "fifo":
            os.mkfifo(folder / name)
        case "device":
            (folder / name).symlink_to("/dev/zero")
        case "folder":
            (folder / name).mkdir()
        case "nowhere":
            (folder / name).symlink_to("nowhere")
    with pytest.raises(ValueError, match=rf"{name}: expected"):
        Shards(folder)
    if name == "s.tar":
        with pytest.raises(ValueError, match=rf"{name}: expected a regular file"):
            indexed(folder)


def test_a_link_to_a_shard_is_read(tmp_path):
    tar(tmp_path / "there" / "a.tar", [("a.json", record("a"))])
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a.tar").symlink_to(tmp_path / "there" / "a.tar")
    assert len(Shards(tmp_path / "here")) == 1


# --- records and keys ------------------------------------------------------------------------------


def test_a_key_in_two_shards_and_two_images_of_one_key_are_named(tmp_path):
    tar(tmp_path / "a.tar", [("a.json", record("a")), ("b.json", record("b"))])
    tar(tmp_path / "b.tar", [("b.json", record("b")), ("c.json", record("c"))])
    with pytest.raises(ShardError, match=r"b\.tar: b: expected each key once, got it in .*a\.tar too"):
        Shards(tmp_path)
    shards = Shards(tmp_path, on_damage="skip")
    assert [record.key for record, _ in shards] == ["a", "b", "c"] and len(shards.damage) == 1
    tar(tmp_path / "two" / "a.tar", [("a.json", record("a")), ("a.png", png()), ("a.jpg", png())])
    with pytest.raises(ShardError, match=r"a\.tar: a: expected one image, got \.png and \.jpg"):
        Shards(tmp_path / "two")


BAD_RECORDS = {
    "another key": (record("b"), "key: expected the member's name, got 'b'"),
    "NaN": (b'{"key": "a", "extra": {"x": [{"y": NaN}]}}', "extra: .*finite"),
    "infinity": (b'{"key": "a", "extra": {"x": -Infinity}}', "extra: .*finite"),
    "too large a number": (b'{"key": "a", "extra": {"x": 1e999}}', "extra: .*finite"),
    "unknown field": (b'{"key": "a", "score": NaN}', "extra: .*finite|score"),
    "box": (b'{"key": "a", "annotation": {"objects": [{"label": "x", "box": [0, 0, 1, NaN]}]}}', "box.*finite"),
    "control character": (b'{"key": "a\\u001b[31m"}', "control characters"),
    "too many dialogues": (
        record("a", dialogues=[{"turns": [{"user": "?"}]}] * 200_000), r"expected at most 20,000 parts .*got 400,00"
    ),
}  # fmt: skip


@pytest.mark.parametrize("text, expected", BAD_RECORDS.values(), ids=BAD_RECORDS)
def test_records_that_cannot_be_meant_are_named(tmp_path, text, expected):
    tar(tmp_path / "s.tar", [("a.json", text)])
    with pytest.raises(RecordError, match=rf"s\.tar: a: .*{expected}"):
        Shards(tmp_path)[0]


def test_braces_in_texts_are_no_parts():
    assert Record.parse(record("a", extra={"code": "{" * (MAX_PARTS + 1)}), "a").extra
    assert Record.parse(record("a", extra={"x": 1e308, "y": [None, "NaN"]}), "a")


# --- captions of others ----------------------------------------------------------------------------


@pytest.mark.parametrize("txt", [False, True])
def test_what_img2dataset_writes_is_read_as_captions_as_they_stand(tmp_path, txt):
    """jpg + json, or jpg + json + txt, its default."""
    said, members = " two  spaces\n\tand a line\u00a0", []
    for n in range(3):
        about = {"caption": said, "url": "http://x/y.jpg", "key": f"00000000{n}", "status": "success", "width": 8}
        members += [(f"00000000{n}.jpg", png()), (f"00000000{n}.json", json.dumps(about).encode())]
        members += [(f"00000000{n}.txt", said.encode())] if txt else []
    tar(tmp_path / "a" / "00000.tar", members)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert "samples (captions) │      3" in indexed(tmp_path / "b")
    for folder in (tmp_path / "a", tmp_path / "b"):  # without an index and with one
        shards = Shards(folder)
        assert [record.annotation.captions for record, _ in shards] == [[said]] * 3
        assert not shards.damage


def test_captions_that_are_numbered_anew_in_every_shard_have_keys_of_their_own(tmp_path):
    for name in ("x", "y"):
        tar(
            tmp_path / f"{name}.tar",
            [("0.png", png()), ("0.txt", name.encode()), ("v.1/0.png", png()), ("v.1/0.txt", b"v")],
        )
    assert [record.key for record, _ in Shards(tmp_path)] == ["x-0", "x-v-1-0", "y-0", "y-v-1-0"]


# --- the cache -------------------------------------------------------------------------------------


def test_the_cache_deletes_only_what_it_made(tmp_path):
    write_shards(tmp_path / "served", shapes.samples("sft", 12, seed=3), per_shard=4)
    folder = tmp_path / "cache"
    mine = [folder / name for name in ("thesis.pdf", "old.partial", "0123456789abcdef-shard.tar", "sub/a.tar")]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 1000)
        os.utime(path, (1, 1))
    (folder / "fedcba9876543210-link.tar").symlink_to(mine[0])
    size = max(path.stat().st_size for path in (tmp_path / "served").glob("*.tar"))
    cache = ShardCache(str(folder), gigabytes=1.5 * size / 1e9)
    for path in sorted((tmp_path / "served").glob("*.tar")):
        cache.fetch(f"file://{path}")
    assert (
        all(path.read_bytes() == b"x" * 1000 for path in mine) and (folder / "fedcba9876543210-link.tar").is_symlink()
    )
    assert len(list(folder.glob("*-shard-00000*.tar"))) < 3  # its own made room


def test_index_shard_reads_no_more_headers_into_memory_than_it_needs(tmp_path):
    path = tar(tmp_path / "s.tar", [(f"{n}.json", b"{}") for n in range(50)])
    assert len(index_shard(path)["samples"]) == 50
