"""Shards in S3-compatible storage, through a proxy that cuts connections."""

from __future__ import annotations

import time
import urllib.request
from pathlib import Path

import boto3
import pytest
from conftest import composed, keys
from moto import settings as moto_settings
from moto.server import ThreadedMotoServer
from remote_servers import CuttingProxy, running
from test_remote import _Keys
from torch.utils.data import DataLoader

from dress.data import cache as cache_module
from dress.data.cache import FetchError, ShardCache
from dress.data.remote import open_shards
from dress.data.shards import ShardError, Shards, write_shards
from dress.data.stream import open_stream
from dress.worlds.shapes import generate as shapes

PIECE = 16 << 10
FOLDER = "sets/a b#1 +%41é"
"""Below the bucket: names that a URL would have to quote."""
SECRET = "a-secret-key-of-s3"


@pytest.fixture(scope="module")
def moto():
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture
def local(tmp_path) -> Path:
    write_shards(tmp_path / "served", shapes.samples("sft", 40, seed=3), per_shard=5)
    Shards(tmp_path / "served")  # writes the index
    return tmp_path / "served"


@pytest.fixture
def proxy(moto, local, monkeypatch):
    """Between s3fs and the storage, which holds the shards; every other connection breaks off in a piece."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(local / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(local / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(cache_module, "PIECE", PIECE)
    urllib.request.urlopen(f"http://127.0.0.1:{moto}/moto-api/reset", b"").close()
    storage = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{moto}")
    storage.create_bucket(Bucket="bucket")
    for file in local.iterdir():
        storage.upload_file(str(file), "bucket", f"{FOLDER}/{file.name}")
    proxy = CuttingProxy(moto, every=2, limit=PIECE // 2)
    with running(proxy) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        yield proxy


def cache(tmp_path: Path) -> ShardCache:
    return ShardCache(str(tmp_path / "cache"))


def test_a_stream_from_s3_is_that_of_local_shards_though_connections_break_off(proxy, local, tmp_path):
    data = composed("data=shards", "data.path=x", f"data.cache_dir={tmp_path / 'cache'}").data
    here, there = (open_stream(place, place, data, seed=5) for place in (local, f"s3://bucket/{FOLDER}"))
    assert there.fingerprint == here.fingerprint
    places = [here.at(position) for position in range(60)]  # an epoch and a half
    assert [there.at(position) for position in range(60)] == places
    assert [there[place] for place in places] == [here[place] for place in places]
    shards = there.parts[0].shards
    assert shards._cache.retries > 0 and proxy.cuts > 0


@pytest.mark.slow
def test_forked_workers_read_from_s3(proxy, local, tmp_path):
    shards = open_shards(f"s3://bucket/{FOLDER}", cache=cache(tmp_path))
    assert shards[0]  # what was opened here is not used there
    loader = DataLoader(_Keys(shards), batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert list(loader) == keys(Shards(local))


def test_another_etag_is_noticed_and_shards_may_be_named(proxy, local, moto, tmp_path):
    assert open_shards(f"s3://bucket/{FOLDER}", cache=cache(tmp_path))[0]
    named = open_shards(f"s3://bucket/{FOLDER}/shard-{{000000..000001}}.tar", cache=cache(tmp_path))
    assert keys(named) == keys(Shards(local))[:10]
    changed = bytearray((local / "shard-000003.tar").read_bytes())
    changed[600] ^= 1
    storage = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{moto}")
    storage.put_object(Bucket="bucket", Key=f"{FOLDER}/shard-000003.tar", Body=bytes(changed))
    with pytest.raises(ShardError, match=r"shard-000003\.tar: expected sha256 .*fetched twice"):
        open_shards(f"s3://bucket/{FOLDER}", cache=cache(tmp_path))


def test_what_is_not_there_is_told_from_what_may_not_be_read(proxy, tmp_path, monkeypatch):
    started = time.monotonic()
    with pytest.raises(ShardError, match=r"s3://bucket/none/index\.arrow: expected the index of these shards, found"):
        open_shards("s3://bucket/none", cache=cache(tmp_path))
    with pytest.raises(FetchError, match=r"s3://nobodys/set/index\.arrow: the server refuses it .*bucket"):
        open_shards("s3://nobodys/set", cache=cache(tmp_path))
    monkeypatch.setattr(moto_settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)  # keys are looked at
    with pytest.raises(FetchError, match=r"index\.arrow: the server refuses it .*credentials") as error:
        open_shards(f"s3://bucket/{FOLDER}", cache=cache(tmp_path))
    assert SECRET not in str(error.value)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(FetchError, match=r"index\.arrow: the server refuses it \(Unable to locate credentials\)"):
        open_shards(f"s3://bucket/{FOLDER}", cache=cache(tmp_path))
    assert time.monotonic() - started < 0.2 * 2**cache_module.TRIES  # nothing was asked for again and again


def test_tries_of_the_libraries_do_not_multiply_with_ours(proxy, tmp_path, monkeypatch):
    proxy.every, proxy.limit = 1, 0
    monkeypatch.setattr(cache_module.time, "sleep", lambda seconds: None)
    with pytest.raises(FetchError, match=r"s3://bucket/.*not fetched after 6 tries"):
        open_shards(f"s3://bucket/{FOLDER}", cache=cache(tmp_path))
    assert proxy.connections <= 2 * cache_module.TRIES  # aiohttp asks once more where a connection ends at once
