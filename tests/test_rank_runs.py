"""Whole runs on several processes: more of them than there is work, a server that is asked and paid, equal bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import ROOT, TINY
from llm_server import Behaviour, serving
from safetensors.torch import load_file
from scripts import run_script

from dress.llm.ledger import Ledger
from dress.model.checkpoint import load_model

pytestmark = pytest.mark.slow
SHARED = {1: "single", 2: "shard"}


def train(tmp_path: Path, name: str, *more: str, processes: int = 1) -> Path:
    """A finished run; its folder."""
    ranks = [f"trainer.devices={processes}", "trainer.accelerator=cpu", "training.threads=1"]
    ranks += ["parallel.strategy=ddp"] if processes > 1 and not any("strategy=" in one for one in more) else []
    typed = [*TINY, *ranks, f"data.path={tmp_path / 'data'}", *more, f"run_dir={tmp_path / name}"]
    done = run_script(ROOT / "src" / "train.py", *typed, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return tmp_path / name


def test_three_processes_collect_and_answer_the_bytes_of_one(tmp_path):
    learned = train(tmp_path, "learned", "curriculum.stages.eval.models=[sft]", "curriculum.stages.eval.records=1")
    more = [
        "curriculum.run=[collect,eval]", "curriculum.stages.eval.models=[sft]",
        "curriculum.stages.collect.per_shard=10", "curriculum.stages.eval.records=2",
        f"reuse={learned}",
    ]  # fmt: skip
    runs = {n: train(tmp_path, str(n), *more, processes=n) for n in (1, 3)}
    shards = {n: sorted((run / "stages/collect/shards").glob("*.tar")) for n, run in runs.items()}
    assert [file.read_bytes() for file in shards[1]] == [file.read_bytes() for file in shards[3]]
    assert len(shards[1]) == 3  # 24 records
    one, three = ((run / "outcomes.jsonl").read_bytes() for run in runs.values())
    assert one == three and one


def test_two_processes_pay_a_server_once(tmp_path):
    server = Behaviour()
    with serving(server) as url:
        llm = [f"{rater}.{text}" for rater in ("annotator", "judge") for text in (f"base_url={url}", "model=m")]
        few = ["curriculum.stages.collect.records=6", "curriculum.stages.eval.records=3", "eval.conditions=[none]"]
        run = train(
            tmp_path, "run", "annotator=llm", "judge=llm", *llm, "annotator.api_key_env=null",
            "judge.api_key_env=null", *few, processes=2,
        )  # fmt: skip
    outcomes = [json.loads(line) for line in (run / "outcomes.jsonl").read_text().splitlines()]
    assert outcomes and all(row["rating"] for row in outcomes)
    assert set(server.answered.values()) == {1}, "a call was sent twice"
    assert len(list(Ledger(run / "ledger.sqlite", readonly=True).calls())) == len(server.answered)


def test_two_processes_that_share_the_model_answer_as_one(tmp_path):
    """Every stage, the model in parts from the first step on; the weights but for the order of sums."""
    runs = {n: train(tmp_path, str(n), "parallel.strategy=" + strategy, processes=n) for n, strategy in SHARED.items()}
    for stage in ("align", "sft", "dress"):
        one, two = (load_file(run / "stages" / stage / "model.safetensors") for run in runs.values())
        assert one.keys() == two.keys()
        for name, wanted in one.items():
            assert (two[name] - wanted).norm() <= 1e-2 * wanted.norm(), name  # AdamW magnifies gradients of almost zero
    histories = [json.loads((run / "stages/dress/history.json").read_text()) for run in runs.values()]
    for one, two in zip(*histories, strict=True):
        assert one["train/loss"] == pytest.approx(two["train/loss"], rel=1e-4)
    again = {n: load_model(run / "stages" / "dress")[1]["base"] for n, run in runs.items()}
    assert again[1] == again[2]
    one, two = (json.loads((run / "metrics.json").read_text()) for run in runs.values())
    assert one.keys() == two.keys()
