"""Passwords and signatures in URLs stand in no file and no message, and still open what they open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import ROOT, composed
from scripts import run_script
from test_command_line import FAST

from dress.base.redaction import OURS, hide, redacted, reveal

SECRET_URLS = [
    "http://user:canary1@127.0.0.1:9/data", "https://u:can@ary1@h/x.tar", "http://u:canary/1@h/x", "s3://:canary1@b/k",
    "https://h/shard-{000..002}.tar?sig=canary1", "https://h/x.tar?a=b&X-Amz-Signature=canary1&c=d",
    "https://h/x?access_token=canary1#y", "pipe:curl -s 'https://u:canary1@h/x.tar?token=canary1'",
    "https://ghp_canary10123456789abcdef@h/x",
]  # fmt: skip
PLAIN_URLS = [
    "http://127.0.0.1:8000/v1", "https://h/x.tar?design=3", "hf://datasets/u/r@main/x.tar", "sftp://me@h/x",
    "http://h:8080/a@b", "no url: a@b ?token=x", "http://h/x?sig=",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_stays(monkeypatch):
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


@pytest.mark.parametrize("url", SECRET_URLS)
def test_secrets_of_urls_are_hidden_and_revealed(url):
    public = hide({"path": [url]})["path"][0]
    assert "canary" not in public and "can@ary" not in public and OURS in public
    assert reveal(public) == url and hide(public) == public == hide(url)
    assert "canary" not in redacted(f"failed: {url} ({url!r})")
    for name in [name for name in os.environ if name.startswith(OURS)]:
        del os.environ[name]
    with pytest.raises(ValueError, match=rf"Set the environment variable {OURS}"):
        reveal(public)


@pytest.mark.parametrize("url", PLAIN_URLS)
def test_plain_urls_stay(url):
    assert hide(url) == url == reveal(url)


def test_the_checked_configuration_holds_no_secret():
    settings = composed("data=shards", "data.path=http://user:canary1@h/data", "data.sft='https://h/s?sig=canary1'")
    assert "canary" not in settings.model_dump_json()
    assert reveal(settings.data.path) == "http://user:canary1@h/data"


def train(folder: Path, *typed: str, **variables: str) -> str:
    done = run_script(ROOT / "src" / "train.py", *typed, cwd=folder, env=os.environ | variables)
    assert done.returncode == 1
    return done.stdout + done.stderr


def test_no_file_and_no_message_holds_a_secret(tmp_path):
    said = train(tmp_path, "phases.praise=${oc.env:SOME_KEY}", SOME_KEY="canary1")
    assert "phases.praise: the value of the variable SOME_KEY would be written" in said and "canary" not in said
    said = train(tmp_path, "phases.praise=canary1-0123456789", SOME_KEY="canary1-0123456789")
    assert "SOME_KEY" in said and "canary" not in said
    said = train(tmp_path, "-m", "data=shards", "data.path=http://u:canary1@127.0.0.1:9/d")
    assert "without -m" in said and "canary" not in said
    said = train(tmp_path, "data=shards", "data.path=http://u:canary1@127.0.0.1:9/d", f"run_dir={tmp_path / 'run'}",
                 "experiment=sft_only")  # fmt: skip
    assert f"http://u:<{OURS}" in said and "canary" not in said
    assert not (tmp_path / "run").exists(), "it could not begin"
    done = run_script(
        ROOT / "src" / "train.py", *FAST, "experiment=sft_only", "data.feedback=http://u:canary1@127.0.0.1:9/d",
        f"run_dir={tmp_path / 'run'}", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0 and "canary" not in done.stdout + done.stderr, done.stderr
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {tmp_path / "run" / name for name in ("config.json", "train.log", "report.html")} <= set(files)
    assert f"http://u:<{OURS}" in (tmp_path / "run" / "config.json").read_text()
    assert not [file for file in files if b"canary" in file.read_bytes()]
