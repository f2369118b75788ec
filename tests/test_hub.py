"""Shards on a hub (`hf://`), by Hugging Face's own client, in a process of their own: it reads HF_ENDPOINT when it is
imported."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import keys
from remote_servers import CuttingProxy, Hub, running

from dress.data.index_file import INDEX
from dress.data.shards import Shards, write_shards
from dress.worlds.shapes import generate as shapes

ROOT = Path(__file__).parents[1]
TOKEN = "hf_a-token-of-somebody"
READ = """
import json, multiprocessing, os, sys
from dress.data import cache as cache_module
from dress.data.cache import FetchError, ShardCache
from dress.data.remote import open_shards

cache_module.PIECE = 16 << 10
url, folder = sys.argv[1:]

def say(shards):
    print(json.dumps([record.key for record, _ in shards]), flush=True)

def refused(url):
    try:
        open_shards(url, cache=ShardCache(folder))
    except (FetchError, ValueError) as error:
        print(json.dumps(str(error)), flush=True)

shards = open_shards(url, cache=ShardCache(folder))
print(json.dumps(shards.fingerprint), flush=True)
worker = multiprocessing.get_context("fork").Process(target=say, args=(shards,))
worker.start()
worker.join()
say(shards)
refused(url + "/none")
del os.environ["HF_TOKEN"]
refused(url)
"""


@pytest.fixture
def local(tmp_path: Path) -> Path:
    folder = tmp_path / "served" / "a b#1 +%41é"
    write_shards(folder, shapes.samples("sft", 40, seed=3), per_shard=5)
    Shards(folder)  # writes the index
    return folder


@pytest.mark.parametrize("revision", ["main", pytest.param("v1", marks=pytest.mark.slow)])
def test_shards_of_a_hub_are_those_of_the_folder_though_connections_break_off(local, tmp_path, revision):
    hub, at = Hub(tmp_path / "served", TOKEN), "" if revision == "main" else f"@{revision}"
    url = f"hf://datasets/somebody/shards{at}/{local.name}"
    env = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    env |= {"HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT / "src")}
    with running(hub), running(CuttingProxy(hub.server_port, every=12, limit=4096)) as endpoint:
        ran = subprocess.run(
            [sys.executable, "-c", READ, url, str(tmp_path / "cache")], capture_output=True, text=True,
            env=env | {"HF_ENDPOINT": endpoint}, timeout=120,
        )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    fingerprint, by_worker, by_parent, missing, refused = map(json.loads, ran.stdout.splitlines())
    assert fingerprint == Shards(local).fingerprint
    assert by_worker == by_parent == keys(Shards(local))
    assert f"none/{INDEX}: expected the index of these shards, found none" in missing
    assert re.search(r"the server refuses it .*repository not found.*token", refused)
    assert "peer closed connection" in ran.stderr and TOKEN not in ran.stdout + ran.stderr
    sent = sum(file.stat().st_size for file in local.iterdir())
    assert sent <= hub.asked["bytes"] < 1.5 * sent  # nothing is read beyond the pieces
    # A list says what all shards are, to each process once.
    assert hub.asked["tree"] == hub.asked[f"tree of {revision}"] <= 4
