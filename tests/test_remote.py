"""Shards behind a real HTTP server that drops connections, through the bounded and checked cache."""

from __future__ import annotations

import gzip
import http.server
import os
import re
import threading
import zlib
from functools import partial
from pathlib import Path

import pytest
from conftest import composed, keys
from torch.utils.data import DataLoader

from dress.data import cache as cache_module
from dress.data.cache import FetchError, ShardCache
from dress.data.index_file import INDEX, write_index
from dress.data.remote import open_shards
from dress.data.shards import ShardError, Shards, write_shards
from dress.data.stream import Part, Stream, open_stream
from dress.dialogue.batch import Example
from dress.objectives.stage import stage_objectives
from dress.train.datamodule import rejected
from dress.train.examples import Examples
from dress.train.steps import StepDataset
from dress.worlds.shapes import generate as shapes


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
    Shards(folder)  # writes the index
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
    examples = Examples(stage_objectives(stage), plain.phases, data, None, None, file)
    examples.build = lambda record, *_: Example([], None, where=record.key)
    dataset = StepDataset(Stream([Part("", shards)], 0), stage, examples)
    dataset.collated = list
    assert sorted(one.where for one in dataset[0] if one) == sorted(
        set(keys(Shards(folder))) - {f"sft-{i:06d}" for i in range(10, 15)}
    )
    assert rejected(file).total() == 5


def test_what_a_server_claims_to_have_packed_is_never_unpacked(server, tmp_path):
    url, folder = server
    Dropping.packed = True
    index = (folder / INDEX).read_bytes()
    (folder / INDEX).write_bytes(gzip.compress(index))
    with pytest.raises(ShardError, match=rf"{url}/index\.arrow: expected an index of version 5, .*upload index\.arrow"):
        open_shards(url, cache=ShardCache(str(tmp_path / "cache")))


def test_an_index_that_others_wrote_is_checked(server, tmp_path):
    url, folder = server
    entry = {"name": "../x.tar", "size": 9, "mtime_ns": 0, "samples": [("a", {"json": (512, 9)})]}
    write_index(folder / INDEX, [{**entry, "sha256": "0" * 64, "problems": [], "features": None}], "records", ())
    with pytest.raises(ShardError, match=rf"{url}/index\.arrow: expected names of shards below it, got '\.\./x\.tar'"):
        open_shards(url, cache=ShardCache(str(tmp_path / "cache")))


def test_an_index_is_fetched_again_when_it_is_another_one_and_needed(server, tmp_path):
    url, folder = server
    cache = ShardCache(str(tmp_path / "cache"))
    assert len(open_shards(url, cache=cache)) == 40
    (kept,) = (tmp_path / "cache").glob("*-index.arrow")
    first = kept.stat().st_ino
    assert len(open_shards(url, cache=cache)) == 40 and kept.stat().st_ino == first  # one for all processes
    kept.write_bytes(kept.read_bytes()[:-1])
    assert len(open_shards(url, cache=cache)) == 40
    os.utime(folder / "shard-000001.tar", (0, 0))
    Shards(folder)  # another index of the same size
    os.utime(folder / INDEX, (9, 9))
    assert len(open_shards(url, cache=cache)) == 40 and kept.read_bytes() == (folder / INDEX).read_bytes()
    (folder / "shard-000007.tar").unlink()
    (folder / INDEX).unlink()
    Shards(folder)
    os.utime(folder / INDEX, (0, 0))
    assert len(open_shards(url, cache=cache)) == 35
    (folder / INDEX).rename(folder / "index.json")
    with pytest.raises(ShardError, match=r"index\.arrow: expected the index of these shards, found none\. Run `py"):
        open_shards(url, cache=cache)


def test_the_index_of_shards_that_were_named_is_kept_and_mapped(server, tmp_path):
    cache = ShardCache(str(tmp_path / "cache"))
    for _ in range(2):
        shards = open_shards(f"{server[0]}/shard-{{000000..000002}}.tar", cache=cache)
        file, _ = shards._index.file
        assert len(shards) == 15 and file.name.endswith(".index.arrow") and file.parent == tmp_path / "cache"


def test_names_of_shards_are_quoted_in_urls_and_what_is_refused_is_no_missing_file(server, tmp_path, monkeypatch):
    url, folder = server
    for file in folder.iterdir():
        file.unlink()
    write_shards(folder / "a b#1 +%41é", shapes.samples("sft", 4, seed=3), per_shard=2)
    assert keys(Shards(folder)) == keys(open_shards(url, cache=ShardCache(str(tmp_path / "cache"))))
    monkeypatch.setattr(Dropping, "do_GET", lambda self: self.send_error(403))
    monkeypatch.setattr(Dropping, "do_HEAD", lambda self: self.send_error(403))
    with pytest.raises(FetchError, match=r"index\.arrow: the server refuses it \(403"):
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


@pytest.mark.parametrize("method", ["fork", "forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_of_every_kind_read_remote_shards(server, tmp_path, method):
    url, folder = server
    shards = open_shards(url, cache=ShardCache(str(tmp_path / "cache")))
    assert shards[0]
    loader = DataLoader(_Keys(shards), batch_size=None, num_workers=1, multiprocessing_context=method)
    assert list(loader) == keys(Shards(folder))
