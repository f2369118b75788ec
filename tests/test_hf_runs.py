"""A vision-language model of transformers through the whole house: each command, on a small checkpoint."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import pytest
import torch
from conftest import ROOT, composed
from families import checkpoint, picture
from hf_proof import png
from rich.console import Console
from scripts import run_script
from test_command_line import environment, train

import dress
from dress.base import processes
from dress.base.files import write_json
from dress.data.shards import Shards
from dress.run.composing import compose
from dress.run.preparing import task
from dress.train import callbacks
from dress.train.curriculum import Curriculum


def model(folder: Path) -> list[str]:
    """Settings of a model of seconds."""
    return ["model=hf", f"model.name={folder}", "model.lora=null", "data.max_tokens=1024"]


def fast(folder: Path, *more: str) -> list[str]:
    return ["experiment=dress_full", "scale=tiny", *model(folder), "debug=fast_dev_run", "trainer.devices=1", *more]


def ends_well(cwd: Path, script: str, *arguments: str) -> str:
    """What a script prints that ends without an error."""
    done = run_script(ROOT / "src" / script, *arguments, cwd=cwd, env=environment())
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "Loading weights" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def finished(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where the whole method has run on a model with positions of its own."""
    cwd = tmp_path_factory.mktemp("home")
    ends_well(cwd, "train.py", *fast(checkpoint("qwen2_5_vl", cache)))
    return cwd


def test_the_whole_method_runs_to_its_report(finished: Path) -> None:
    run = finished / "logs" / "latest"
    metrics = json.loads((run / "metrics.json").read_text())
    assert {"sft", "dress"} <= metrics.keys() and (run / "report.html").exists()
    for stage in ("align", "sft", "dress"):
        history = json.loads((run / f"stages/{stage}/history.json").read_text())
        losses = [row["train/loss"] for row in history]
        assert len(losses) == 2 and min(losses) > 0


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llava", "gemma3"])
def test_other_families_run_too(cache: Path, tmp_path: Path, family: str) -> None:
    ends_well(tmp_path, "train.py", *fast(checkpoint(family, cache)))
    assert (tmp_path / "logs" / "latest" / "report.html").exists()


@pytest.mark.slow
def test_pictures_are_read_in_processes_that_start_anew(cache: Path, tmp_path: Path) -> None:
    only = ["curriculum.run=[align]", "data.workers=2", "data.start_method=spawn"]
    ends_well(tmp_path, "train.py", *fast(checkpoint("qwen2_5_vl", cache), *only))


def test_a_batch_is_shown_with_what_stands_around_an_image(finished: Path) -> None:
    shown = ends_well(finished, "train.py", "resume=logs/latest", "show=batch", "stage=align")
    assert re.search(r"<\|vision_start\|>\[image: \d+ tokens\]<\|vision_end\|>Write a caption", shown)


def test_show_batch_says_where_prompt_and_answer_are_apart(cache: Path, tmp_path: Path) -> None:
    """LLaVA-OneVision's template and Qwen's tokenizer: a prompt's end and a blank line are one token to it."""
    settings = fast(checkpoint("llava_onevision", cache), "data.max_tokens=2048", "show=batch", "stage=align")
    shown = ends_well(tmp_path, "train.py", *settings)
    assert "the two are tokenised apart, here and in generation" in " ".join(shown.split())
    assert "[image: " in shown


@pytest.mark.slow
def test_a_finished_run_is_evaluated_and_collected_from(finished: Path) -> None:
    ends_well(finished, "eval.py", "ckpt=logs/latest", "records=2")
    ends_well(finished, "collect.py", "responder=logs/latest", "out=collected", "records=2")
    turns = [t for record, _ in Shards(finished / "collected") for d in record.dialogues for t in d.turns]
    assert turns and all(turn.feedback for turn in turns)


def test_it_answers_from_python(finished: Path) -> None:
    loaded = dress.load(finished / "logs" / "latest")
    answers = loaded.answer([picture(70, 40), picture(33, 61), None], "What is it?", max_new_tokens=4)
    assert all(answer.failed is None and answer.finish_reason in ("stop", "length") for answer in answers)
    again = loaded.answer(picture(33, 61), "What is it?", max_new_tokens=4)
    assert again.text == answers[1].text


def test_lengths_count_the_tokens_of_each_image(finished: Path, cache: Path) -> None:
    (world,) = (finished / "data" / "shapes").iterdir()
    overrides = ["task=inspect", f"path={world / 'sft'}", "model=hf", f"model.name={checkpoint('qwen2_5_vl', cache)}"]
    settings, inspect = task(compose("prepare", overrides))
    console = Console(record=True, width=200)
    lengths = inspect(settings, console).lengths
    assert "An image adds 9 tokens" in console.export_text()
    bare = lengths.to_json()["summary"]["dialogue"]["mean"]
    assert bare > 20


def test_a_run_that_was_stopped_goes_on(finished: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = finished / "logs" / "latest" / "stages" / "align" / "model.safetensors"
    only = ["curriculum.run=[align]", f"data.path={finished / 'data' / 'shapes'}", "training.checkpoint_every=1"]
    settings = composed(*fast(checkpoint("qwen2_5_vl", cache), *only), run_dir=finished / "stopped")
    save, stopped = callbacks.SaveCheckpoint._save, []

    def once(self, trainer):
        save(self, trainer)
        if not stopped:
            stopped.append(trainer.global_step)
            raise processes.Interrupted

    monkeypatch.setattr(callbacks.SaveCheckpoint, "_save", once)
    with pytest.raises(processes.Interrupted):
        Curriculum(settings, Console(quiet=True)).run()
    write_json(finished / "stopped" / "config.json", settings.model_dump())  # as the command does at its beginning
    assert stopped == [1] and not (finished / "stopped" / "stages" / "align" / "model.safetensors").exists()
    done = train(finished, "resume=stopped")
    assert done.returncode == 0, done.stderr
    assert (finished / "stopped" / "stages" / "align" / "model.safetensors").read_bytes() == whole.read_bytes()


def test_what_reads_pictures_goes_to_another_process(finished: Path) -> None:
    network = dress.load(finished / "logs" / "latest").responder.model
    reader = network.reader()
    sent = pickle.loads(pickle.dumps(reader))
    data = png((70, 40))
    one, two = reader(data, ""), sent(data, "")
    assert one.layout.parts == two.layout.parts and (one.layout.positions == two.layout.positions).all()
    assert all(torch.equal(one.inputs[name], two.inputs[name]) for name in one.inputs | two.inputs)
