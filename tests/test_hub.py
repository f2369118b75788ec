"""Shards on a hub (`hf://`), by Hugging Face's own client, in a process of their own: it reads HF_ENDPOINT when it is
imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import keys
from remote_servers import CuttingProxy, Hub, running

from dress.data.index_file import INDEX
from dress.data.shards import Shards, write_shards
from dress.worlds.shapes import generate as shapes

ROOT = Path(__file__).parents[1]
TOKEN = "hf_a-token-of-somebody"
READ = """
import json, sys
from torch.utils.data import DataLoader
from dress.data import cache as cache_module
from dress.data.cache import FetchError, ShardCache
from dress.data.remote import open_shards
from dress.data.shards import ShardError
from test_remote import _Keys

cache_module.PIECE = 16 << 10
url, folder, workers = sys.argv[1:]
try:
    cache = ShardCache(folder)
    shards = open_shards(url, cache=cache)
    if int(workers):
        found = list(DataLoader(_Keys(shards), batch_size=None, num_workers=1, multiprocessing_context="fork"))
    else:
        found = [record.key for record, _ in shards]
    print(json.dumps({"keys": found, "retries": cache.retries, "fingerprint": shards.fingerprint}))
except (FetchError, ShardError) as error:
    print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
"""


@pytest.fixture
def local(tmp_path: Path) -> Path:
    folder = tmp_path / "served" / "a b#1 +%41é"
    write_shards(folder, shapes.samples("sft", 40, seed=3), per_shard=5)
    Shards(folder)  # writes the index
    return folder


def read(endpoint: str, tmp_path: Path, url: str, token: str = TOKEN, workers: int = 0) -> tuple[dict[str, Any], str]:
    """What a process reads there, and all that it printed."""
    env = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    env |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    env |= {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}"} | ({"HF_TOKEN": token} if token else {})
    command = [sys.executable, "-c", READ, url, str(tmp_path / "cache"), str(workers)]
    ran = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout), ran.stdout + ran.stderr


def test_shards_of_a_hub_are_those_of_the_folder_though_connections_break_off(local, tmp_path):
    hub = Hub(tmp_path / "served", TOKEN)
    with running(hub), running(CuttingProxy(hub.server_port, every=9, limit=4096)) as endpoint:
        found, printed = read(endpoint, tmp_path, f"hf://datasets/somebody/shards/{local.name}")
        assert found["keys"] == keys(Shards(local)) and found["fingerprint"] == Shards(local).fingerprint
        assert "peer closed connection" in printed and TOKEN not in printed
        sent = sum(file.stat().st_size for file in local.iterdir())
        assert sent <= hub.asked["bytes"] < 1.2 * sent + 4 * (16 << 10)  # nothing is read beyond the pieces
        assert hub.asked["tree"] == 1  # sizes and tags of all files
        missing, _ = read(endpoint, tmp_path, "hf://datasets/somebody/shards/none")
        assert f"none/{INDEX}: expected the index of these shards, found none" in missing["error"]


@pytest.mark.slow
def test_forked_workers_read_from_a_hub_and_what_may_not_be_read_is_said_at_once(local, tmp_path):
    with running(Hub(tmp_path / "served", TOKEN)) as endpoint:
        found, _ = read(endpoint, tmp_path, f"hf://datasets/somebody/shards/{local.name}", workers=1)
        assert found["keys"] == keys(Shards(local))
        refused, _ = read(endpoint, tmp_path, f"hf://datasets/somebody/shards/{local.name}", token="")
        assert "the server refuses it" in refused["error"] and "repository not found" in refused["error"]
