"""The whole curriculum on a model of a few thousand weights: runs, stops, goes on, is taken over."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, TINY, tiny_settings
from rich.console import Console
from safetensors.torch import load_file

from dress.data.shards import Shards, write_shards
from dress.evaluation.outcomes import load_outcomes
from dress.evaluation.suites.run import metrics
from dress.record import Feedback, Turn
from dress.train.curriculum import Curriculum


def run(settings, console: Console | None = None) -> dict:
    return Curriculum(settings, console or Console(quiet=True)).run()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run of dress_full; its data lie beside it."""
    tmp = tmp_path_factory.mktemp("whole")
    run(tiny_settings(tmp))
    return tmp / "run"


def model_bytes(run_dir: Path, stage: str) -> bytes:
    return (run_dir / "stages" / stage / "model.safetensors").read_bytes()


def test_every_stage_leaves_what_the_next_one_needs(finished):
    stages = finished / "stages"
    assert all((stages / name / "done.json").exists() for name in ("align", "sft", "collect", "dress", "eval"))
    history = json.loads((stages / "dress" / "history.json").read_text())
    assert {"critique/loss", "curriculum/step"} <= history[0].keys()
    assert [row["curriculum/step"] for row in history] == [9.0, 10.0, 11.0, 12.0]
    assert json.loads((finished / "run.json").read_text())["stages"].keys() == {
        "align", "sft", "collect", "dress", "eval",
    }  # fmt: skip
    assert (finished / "report.html").exists()


HEADLINE = {"sft": "none", "dress": "praise"}


def test_metrics_are_a_function_of_the_outcomes_and_complete(finished):
    stored = json.loads((finished / "metrics.json").read_text())
    assert stored == json.loads(json.dumps(metrics(load_outcomes(finished / "outcomes.jsonl"), HEADLINE)))
    assert stored.keys() == {"sft", "dress", "conditions"}
    assert stored["conditions"].keys() == {f"{m}/{c}" for m in ("sft", "dress") for c in ("none", "praise")}
    for model in ("sft", "dress"):
        assert stored[model].keys() == {
            "helpfulness/accuracy", "helpfulness/mean_rating", "honesty/hallucinated_share", "honesty/chair_i",
            "honesty/coverage", "harmlessness/safe_share", "harmlessness/over_refusal_share",
            "interaction/mean_rating", "interaction/mean_rating_unsolved", "interaction/regressed_share",
            "image/log_prob", "image/log_prob_blank", "image/gap",
            *(f"reference/{name}{of}" for name in ("exact_match", "vqa_accuracy", "rouge_l")
              for of in ("", "/harmlessness", "/helpfulness", "/honesty")),
        }  # fmt: skip
        assert len(stored[model]["interaction/mean_rating"]) == 3
        assert stored[model]["helpfulness/accuracy"].keys() == {"value", "n", "low", "high"}


def test_collected_answers_are_the_models_own_with_feedback_and_the_advice_as_next_turn(finished):
    for record, _ in Shards(finished / "stages" / "collect" / "shards"):
        for dialogue in record.dialogues:
            assert len(dialogue.turns) == 3
            first, second, _ = dialogue.turns
            assert first.feedback[0].refinement == second.user
            assert first.provenance["responder"] == "dress_full/sft"
            assert all(turn.rating is not None for turn in dialogue.turns)


def test_no_evaluated_scene_was_trained_on(finished):
    data = next((finished.parent / "data").iterdir())
    scenes = {
        split: {json.dumps(record.extra["scene"]) for record, _ in Shards(data / split)}
        for split in ("align", "sft", "prompts", "eval")
    }
    assert len(scenes["eval"]) == 8
    assert not scenes["eval"] & (scenes["align"] | scenes["sft"] | scenes["prompts"])


def test_the_same_seed_gives_the_same_metrics_and_weights(finished, tmp_path):
    settings = tiny_settings(finished.parent, run="again")
    run(settings)
    again = Path(settings.run_dir)
    assert (again / "metrics.json").read_bytes() == (finished / "metrics.json").read_bytes()
    assert model_bytes(again, "dress") == model_bytes(finished, "dress")


def test_another_seed_gives_another_model(finished):
    settings = tiny_settings(finished.parent, "seed=1", "curriculum.stages.eval.models=[align]", run="other")
    run(settings)
    assert model_bytes(Path(settings.run_dir), "align") != model_bytes(finished, "align")


RATED = (
    "best_of", "dpo_only", "kto_only", "reward_weighted_only", "distill_only", "dress_distill",
    "self_correction_only", "llf",
)  # fmt: skip
"""Experiments whose phases need ratings that differ: this model gives no good answer."""


@pytest.fixture(scope="module")
def rated(finished: Path) -> Path:
    """What was collected, with a bad first answer and a good second one."""
    samples = list(Shards(finished / "stages" / "collect" / "shards"))
    for record, _ in samples:
        for dialogue in record.dialogues:
            first = dialogue.turns[0]
            bad = Feedback(rating=1, critique="It is wrong.", refinement="Answer again.")
            praised = [Feedback(rating=4, critique="Very good.")]
            good = Turn(user="Answer again.", assistant=dialogue.reference or "It is red.", feedback=praised)
            dialogue.turns = [first.model_copy(update={"feedback": [bad]}), good]
    write_shards(finished.parent / "rated", samples)
    return finished.parent / "rated"


@pytest.mark.parametrize("experiment", ["critique_only", "refinement_only", "rating_only", *RATED])
def test_an_ablation_takes_over_the_stages_that_are_the_same(finished, rated, experiment):
    more = [f"data.feedback={rated}", "curriculum.stages.dress.data=feedback"] if experiment in RATED else []
    settings = tiny_settings(finished.parent, f"experiment={experiment}", f"reuse={finished}", *more, run=experiment)
    said = io.StringIO()
    run(settings, Console(file=said, width=200))
    assert re.search(r"\d+ s: (collect \d+%, )?dress \d+%, eval \d+%, all else \d+%", said.getvalue()), said.getvalue()
    branch = Path(settings.run_dir)
    for stage in ("align", "sft"):
        assert os.path.samefile(
            branch / "stages" / stage / "model.safetensors", finished / "stages" / stage / "model.safetensors"
        )
    assert model_bytes(branch, "dress") != model_bytes(finished, "dress")


def test_a_changed_setting_is_not_taken_over(finished):
    settings = tiny_settings(
        finished.parent,
        "curriculum.stages.align.lr=0.5",
        "curriculum.stages.eval.models=[align]",
        f"reuse={finished}",
        run="lr",
    )
    console = Console(record=True, file=io.StringIO(), width=400)
    run(settings, console)
    assert f"stage align: made anew, for {finished} made it with other settings or data" in console.export_text()
    assert model_bytes(Path(settings.run_dir), "align") != model_bytes(finished, "align")


def test_reuse_of_no_run_is_named(tmp_path):
    with pytest.raises(ValueError, match="reuse="):
        run(tiny_settings(tmp_path, f"reuse={tmp_path}"))


def test_a_checkpoint_of_another_model_is_named(finished, tmp_path):
    settings = tiny_settings(finished.parent, "model.language.config.hidden_size=48", run="run")
    with pytest.raises(ValueError, match="other settings"):
        run(settings)


def test_loss_is_the_same_without_sharing(finished):
    settings = tiny_settings(
        finished.parent, "data.share_prefixes=false", "curriculum.stages.eval.models=[sft]", run="apart"
    )
    run(settings)
    for stage in ("align", "sft"):
        one, two = (
            load_file(folder / "stages" / stage / "model.safetensors") for folder in (Path(settings.run_dir), finished)
        )
        assert all((one[name] - two[name]).abs().max() < 2e-3 for name in two), stage
    a, b = (json.loads((f / "stages/sft/history.json").read_text()) for f in (Path(settings.run_dir), finished))
    assert a[0]["sft/loss"] == pytest.approx(b[0]["sft/loss"], abs=1e-3)


# --- stopping and going on ---


def start(data: Path, folder: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "src/train.py"), *TINY, f"data.path={data}", f"run_dir={folder}", *more]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    end = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.02)


LONG = [
    "curriculum.stages.sft.steps=40",
    "training.checkpoint_every=5",
    "curriculum.stages.eval.models=[sft]",
    "curriculum.stages.eval.records=2",
]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path, how):
    whole = tmp_path / "whole"
    done = start(tmp_path / "data", whole, *LONG)
    assert done.wait(300) == 0, done.stdout.read()
    cut = tmp_path / "cut"
    process = start(tmp_path / "data", cut, *LONG)
    wait_for(cut / "stages" / "sft" / "last.ckpt", process)
    process.send_signal(how)
    code = process.wait(60)
    assert code == (130 if how == signal.SIGINT else -signal.SIGKILL), process.stdout.read()
    assert (cut / "stages" / "sft" / "last.ckpt").exists()
    command = [sys.executable, str(ROOT / "src/train.py"), f"resume={cut}"]
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0, again.stdout + again.stderr
    assert model_bytes(cut, "sft") == model_bytes(whole, "sft")
    assert (cut / "metrics.json").read_bytes() == (whole / "metrics.json").read_bytes()
    histories = [json.loads((f / "stages/sft/history.json").read_text()) for f in (cut, whole)]
    assert histories[0] == histories[1]


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path):
    settings = ["curriculum.stages.eval.models=[sft]", "trainer.accelerator=cpu", "curriculum.stages.eval.records=2"]
    for name, more in (("one", []), ("two", ["trainer.devices=2", "parallel.strategy=ddp", "training.threads=1"])):
        process = start(tmp_path / "data", tmp_path / name, *settings, *more)
        assert process.wait(300) == 0, process.stdout.read()
    for stage in ("align", "sft"):
        histories = [
            json.loads((tmp_path / name / "stages" / stage / "history.json").read_text()) for name in ("one", "two")
        ]
        for one, two in zip(*histories, strict=True):
            assert one[f"{stage}/supervised_tokens"] == two[f"{stage}/supervised_tokens"]
            assert one[f"{stage}/loss"] == pytest.approx(two[f"{stage}/loss"], rel=1e-4)


@pytest.mark.slow
def test_two_processes_answer_what_one_answers(tmp_path):
    first = tmp_path / "first"
    order = "curriculum.stages.eval.models=[sft]"
    assert start(tmp_path / "data", first, order, "curriculum.stages.eval.records=2").wait(300) == 0
    two = ["trainer.accelerator=cpu", "trainer.devices=2", "parallel.strategy=ddp", "training.threads=1"]
    for name, more in (("one", []), ("two", two)):
        process = start(
            tmp_path / "data", tmp_path / name, order, "curriculum.stages.eval.records=7", f"reuse={first}", *more
        )
        assert process.wait(300) == 0, process.stdout.read()
    one, both = ((tmp_path / name / "outcomes.jsonl").read_bytes() for name in ("one", "two"))
    assert one == both and one.count(b"\n") >= 7 * 4
    assert (tmp_path / "two" / "stages" / "sft" / "history.json").stat().st_nlink != 1, "taken over, not trained"


def test_bf16_trains_and_stays_near_fp32(finished):
    settings = tiny_settings(
        finished.parent,
        "trainer.precision=bf16-mixed",
        "curriculum.stages.eval.models=[align]",
        "eval.turns=1",
        run="bf16",
    )
    run(settings)
    folders = (Path(settings.run_dir), finished)
    half, full = (json.loads((f / "stages/align/history.json").read_text()) for f in folders)
    assert json.loads((Path(settings.run_dir) / "run.json").read_text())["precision"] == "bf16-mixed"
    assert half[-1]["align/loss"] == pytest.approx(full[-1]["align/loss"], rel=0.02)
    assert half[-1]["align/loss"] != full[-1]["align/loss"]


def test_an_ablation_takes_over_the_answers_of_the_same_model(finished):
    folder = finished.parent / "critique_only" / "stages" / "eval"
    if not folder.exists():
        test_an_ablation_takes_over_the_stages_that_are_the_same(finished, None, "critique_only")
    for condition in ("none", "praise"):
        ours, theirs = folder / f"sft-{condition}.jsonl", finished / "stages" / "eval" / f"sft-{condition}.jsonl"
        assert os.path.samefile(ours, theirs)
        assert not os.path.samefile(folder / f"dress-{condition}.jsonl", theirs)
