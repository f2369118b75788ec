"""Resume equals uninterrupted: the same records in the same order and, on one process, bit-equal weights."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY, tiny_settings
from rich.console import Console
from safetensors.torch import load_file

from dress.base import processes
from dress.data.shards import write_shards
from dress.train import callbacks
from dress.train.curriculum import Curriculum
from dress.train.examples import Examples
from dress.worlds.shapes import generate as shapes

STAGES = ["curriculum.run=[sft]", "curriculum.stages.sft.steps=10", "curriculum.stages.sft.records_per_step=10"]
"""40 records: an epoch ends with step 4 and with step 8."""


def note(patch: pytest.MonkeyPatch, read: list[str]) -> None:
    """Write down the stage of every record that is trained on, and where it stands, in order."""
    build = Examples.build

    def noted(self, record, picture, where, *rest):
        read.append(f"{self.rejects.parent.name}: {where}")
        return build(self, record, picture, where, *rest)

    patch.setattr(Examples, "build", noted)


@pytest.fixture
def seen(monkeypatch) -> list[str]:
    """The stage of every record that is trained on, and where it stands, in order."""
    read: list[str] = []
    note(monkeypatch, read)
    return read


def run(settings) -> None:
    Curriculum(settings, Console(quiet=True)).run()


def stop_after(monkeypatch, *steps: int) -> None:
    """The process ends right after it has saved at one of these steps, each of them once."""
    left = list(steps)
    save = callbacks.SaveCheckpoint._save

    def saved(self, trainer):
        save(self, trainer)
        if left and self.path.parent.name == "sft" and trainer.global_step == left[0]:
            left.pop(0)
            raise processes.Interrupted

    monkeypatch.setattr(callbacks.SaveCheckpoint, "_save", saved)


def weights(folder: Path, stage: str = "sft") -> bytes:
    return (folder / "stages" / stage / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that was never stopped; `order.json` in it says which record stood where in the sft stage."""
    tmp, patch, read = tmp_path_factory.mktemp("resume"), pytest.MonkeyPatch(), []
    note(patch, read)
    run(tiny_settings(tmp, *STAGES))
    patch.undo()
    (tmp / "run" / "order.json").write_text(json.dumps([where for where in read if where.startswith("sft")]))
    return tmp / "run"


@pytest.mark.parametrize("steps", [(3,), (4,), (3, 7)], ids=["inside an epoch", "at its end", "twice"])
def test_a_run_that_was_stopped_after_a_save_ends_with_the_same_weights(whole, monkeypatch, steps, seen):
    settings = tiny_settings(whole.parent, *STAGES, "training.checkpoint_every=1", run=f"cut{len(steps)}{steps[0]}")
    stop_after(monkeypatch, *steps)
    for _ in steps:
        with pytest.raises(processes.Interrupted):
            run(settings)
    run(settings)
    assert weights(Path(settings.run_dir)) == weights(whole)
    assert [where for where in seen if where.startswith("sft")] == json.loads((whole / "order.json").read_text())


def test_a_run_that_was_stopped_at_a_validation_ends_with_the_same_weights(whole, monkeypatch):
    settings = tiny_settings(
        whole.parent, *STAGES, "data.validation=sft", "trainer.val_check_interval=3", "training.checkpoint_every=100",
        run="validation",
    )  # fmt: skip
    asked = []
    reached = callbacks.SaveCheckpoint.on_validation_end

    def ask(self, trainer, module):
        if self.path.parent.name == "sft" and trainer.global_step == 6 and not asked:
            asked.append(trainer.global_step)
            self._ask(signal.SIGTERM, None)  # as if the signal came while it validated
        reached(self, trainer, module)

    monkeypatch.setattr(callbacks.SaveCheckpoint, "on_validation_end", ask)
    with pytest.raises(processes.Interrupted):
        run(settings)
    run(settings)
    assert asked == [6] and weights(Path(settings.run_dir)) == weights(whole)
    history = json.loads((Path(settings.run_dir) / "stages" / "sft" / "history.json").read_text())
    losses = {row["curriculum/step"]: row["val/sft/loss"] for row in history if "val/sft/loss" in row}
    assert all(("val/sft/image_gap" in row) == ("val/sft/loss" in row) for row in history)
    assert list(losses) == [7.0, 10.0, 13.0] and list(losses.values()) == sorted(losses.values(), reverse=True)


def test_a_mixture_goes_on_where_it_stood(whole, monkeypatch, seen):
    mixed = [*STAGES, "data.sft={a: {path: sft, weight: 2}, b: {path: align}}", "training.checkpoint_every=1"]
    mixed = [*mixed, "curriculum.stages.sft.phases={sft: 1.0, align: 1.0}", "data.validation=null"]
    run(tiny_settings(whole.parent, *mixed, run="mixed"))
    expected = [where for where in seen if where.startswith("sft")]
    assert len(expected) == 100 and {where.split("/")[-2] for where in expected} == {"sft", "align"}
    seen.clear()
    stop_after(monkeypatch, 4)
    settings = tiny_settings(whole.parent, *mixed, run="mixed-cut")
    with pytest.raises(processes.Interrupted):
        run(settings)
    run(settings)
    assert [where for where in seen if where.startswith("sft")] == expected
    assert weights(Path(settings.run_dir)) == weights(whole.parent / "mixed")


def test_a_run_that_was_stopped_between_stages_goes_on_with_the_next(whole, monkeypatch):
    settings = tiny_settings(whole.parent, *STAGES, run="between")
    train = Curriculum._train
    monkeypatch.setattr(
        Curriculum, "_train", lambda self, name, task: 1 / 0 if name == "sft" else train(self, name, task)
    )
    with pytest.raises(ZeroDivisionError):
        run(settings)
    monkeypatch.undo()
    run(settings)
    assert weights(Path(settings.run_dir)) == weights(whole)


def test_workers_may_change_on_the_way(whole, monkeypatch):
    stop_after(monkeypatch, 3)
    more = ["training.checkpoint_every=1"]
    with pytest.raises(processes.Interrupted):
        run(tiny_settings(whole.parent, *STAGES, *more, run="workers"))
    settings = tiny_settings(whole.parent, *STAGES, *more, "data.workers=3", run="workers")
    run(settings)
    assert weights(Path(settings.run_dir)) == weights(whole)


def test_other_shards_are_refused_on_the_way(whole, monkeypatch):
    stop_after(monkeypatch, 3)
    data = whole.parent / "other"
    shutil.copytree(whole.parent / "data", data)
    settings = tiny_settings(whole.parent, *STAGES, "training.checkpoint_every=1", f"data.path={data}", run="other-run")
    with pytest.raises(processes.Interrupted):
        run(settings)
    (world,) = data.iterdir()
    shutil.rmtree(world / "sft")
    write_shards(world / "sft", shapes.samples("sft", 40, seed=1))
    with pytest.raises(ValueError, match=r"data\.sft: expected the shards that this run began with"):
        run(settings)


def test_webdatasets_own_pipeline_trains_and_refuses_to_resume(whole, monkeypatch):
    stop_after(monkeypatch, 3)
    more = ["training.checkpoint_every=1", "data.reader=webdataset"]
    settings = tiny_settings(whole.parent, *STAGES, *more, run="plain")
    with pytest.raises(processes.Interrupted):
        run(settings)
    with pytest.raises(ValueError, match=r"data\.reader=webdataset: its pipeline cannot go on"):
        run(settings)


def test_webdatasets_own_pipeline_sees_the_same_records(whole, seen):
    one = ["curriculum.run=[align]", "curriculum.stages.align.steps=4", "curriculum.stages.align.records_per_step=10"]
    run(tiny_settings(whole.parent, *one, run="oracle"))
    ours = sorted(where.rpartition(": ")[2] for where in seen)
    seen.clear()
    run(tiny_settings(whole.parent, *one, "data.reader=webdataset", run="oracle2"))
    assert sorted(where.rpartition(": ")[2] for where in seen) == ours


# --- real processes ---


def start(data: Path, folder: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "src/train.py"), *TINY, f"data.path={data}", f"run_dir={folder}", *more]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_a_process_killed_in_the_middle_of_a_save_loses_at_most_that_save(whole, tmp_path):
    folder = tmp_path / "run"
    process = start(whole.parent / "data", folder, *STAGES, "training.checkpoint_every=1")
    partial = folder / "stages" / "sft" / "last.ckpt.partial"
    end = time.monotonic() + 120
    while not (partial.exists() and partial.with_suffix("").exists()):  # a save over an older one
        assert process.poll() is None and time.monotonic() < end, process.stdout.read()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert torch.load(partial.with_suffix(""), weights_only=True)["global_step"] > 0
    done = subprocess.run(
        [sys.executable, "src/train.py", f"resume={folder}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert weights(folder) == weights(whole)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [(2, 1), (1, 2)], ids=["2 to 1", "1 to 2"])
def test_ranks_may_change_on_the_way(whole, tmp_path, ranks):
    folder = tmp_path / "run"
    common = [*STAGES, "training.checkpoint_every=3", "trainer.accelerator=cpu", "training.threads=1"]
    strategy = {1: ["trainer.devices=1"], 2: ["trainer.devices=2", "parallel.strategy=ddp"]}
    process = start(whole.parent / "data", folder, *common, *strategy[ranks[0]])
    last = folder / "stages" / "sft" / "last.ckpt"
    end = time.monotonic() + 200
    while not last.exists():
        assert process.poll() is None and time.monotonic() < end, process.stdout.read()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    process.wait(100)
    done = subprocess.run(
        [sys.executable, "src/train.py", f"resume={folder}", f"trainer.devices={ranks[1]}"],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = (load_file(run / "stages" / "sft" / "model.safetensors") for run in (folder, whole))
    assert all((one[name] - two[name]).abs().max() < 2e-3 for name in two)
    histories = [json.loads((run / "stages" / "sft" / "history.json").read_text()) for run in (folder, whole)]
    assert [row["sft/supervised_tokens"] for row in histories[0]] == [
        row["sft/supervised_tokens"] for row in histories[1]
    ]
