"""Where metrics go: what a real run logs, and that no secret is among it."""

import csv
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import composed
from test_command_line import FAST, train

from dress.data.shards import Shards
from dress.evaluation.outcomes import Outcome
from dress.base.redaction import redacted
from dress.run import loggers, sweep_job, wandb_run
from dress.run.result_rows import flat_figures, sample_table

CANARY = "canary-0a1b2c3d4e5f6a7b8c9d"
FIGURE = {"value": 0.5, "n": 2, "low": 0.1, "high": 0.9}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real tiny run with logger=wandb, offline, with a secret around."""
    cwd = tmp_path_factory.mktemp("wandb")
    done = train(
        cwd, *FAST, "eval.turns=3", "curriculum.stages.sft.steps=5", "trainer.log_every_n_steps=2",
        "logger=[csv,wandb,tensorboard]", "logger.wandb.api_key_env=MY_KEY", "logger.wandb.tags=[first, try]",
        "logger.wandb.notes=What is tried", "logger.wandb.name=mine", "logger.wandb.group=ours",
        "logger.wandb.log_model=true",
        MY_KEY=CANARY, WANDB_MODE="offline",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return (cwd / "logs" / "latest").resolve()


def offline(run: Path) -> list[Path]:
    return sorted((run / "wandb").glob("offline-run-*"))


def records(run: Path, folder: Path | None = None) -> list[dict[str, Any]]:
    """What is really in the run's file, by wandb's own reader."""
    folder = folder or offline(run)[0]
    done = subprocess.run(
        [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", str(folder), "--json"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def history(run: Path, folder: Path | None = None) -> list[dict[str, Any]]:
    return [r["history"]["item"] for r in records(run, folder) if r["type"] == "history"]


def test_one_run_for_the_whole_curriculum_over_one_axis(run: Path) -> None:
    assert len(list((run / "wandb").glob("offline-run-*"))) == 1
    steps = [item["curriculum/step"] for item in history(run)]
    assert steps == [2, 4, 6, 7, 9, 9], "each point once, and at the end the results"
    assert len(list((run / "csv").glob("*/metrics.csv"))) == 3, "both loggers"
    definitions = json.dumps([r for r in records(run) if r["type"] == "metric"])
    assert "curriculum/step" in definitions
    (folder,) = (run / "wandb").glob("offline-run-*")
    assert folder.name.endswith((run / "wandb_id.txt").read_text())


def test_curves_can_be_read(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    items = history(run)
    curves = {
        "train/loss", "train/token_accuracy", "train/lr", "train/supervised_tokens", "train/records",
        "train/memory_gib", "epoch",
    }  # fmt: skip
    assert all(curves <= item.keys() for item in items[:-1]) and curves <= items[2].keys()
    assert all(0 <= item["train/token_accuracy"] <= 1 and item["train/memory_gib"] > 0.01 for item in items[:-1])
    align, sft = items[0], [item for item in items if "sft/loss" in item and "train/records" in item]
    assert align["train/loss"] == pytest.approx(align["align/loss"])
    seen = [item["train/records"] for item in sft]
    assert seen == sorted(seen) and [item["epoch"] for item in sft] == [n / 24 for n in seen]
    tokens = [item["train/supervised_tokens"] for item in sft]
    assert tokens[-1] == pytest.approx(sum(item["sft/supervised_tokens"] for item in sft))
    assert "val/align/loss" in align, "at the end of a stage at least, where held-out records have targets"
    assert [folder.name for folder in (run / "tensorboard").iterdir() if folder.is_dir()] == []
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [item["curriculum/step"] for item in items[:-1]]
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"model.language.config.hidden_size" in content and b"curriculum.stages.sft.lr" in content


def test_wandb_is_told_what_was_asked_for(run: Path) -> None:
    written = records(run)
    (begun,) = [r["run"] for r in written if r["type"] == "run"]
    assert (begun["display_name"], begun["run_group"], begun["notes"]) == ("mine", "ours", "What is tried")
    assert begun["tags"] == ["first", "try"]
    assert any("stage 2/5 sft" in json.dumps(r) for r in written if r["type"] == "output_raw"), "its console"
    assert [r["artifact"]["type"] for r in written if r["type"] == "artifact"][-1] == "model"


def test_samples_are_pictures_with_answers(run: Path) -> None:
    kept = [file for file in (run / "wandb" / "data").rglob("*") if file.is_file()]
    assert len([file for file in kept if file.read_bytes().startswith(b"\x89PNG")]) == 4


def test_no_secret_is_written_anywhere(run: Path) -> None:
    files = [file for file in run.rglob("*") if file.is_file() and not file.is_symlink()]
    assert len(files) > 20
    assert not [file for file in files if CANARY.encode() in file.read_bytes()]


def test_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", CANARY)
    plain = {"a": [f"x{CANARY}y", 3], "b": {"c": "fine"}}
    assert redacted(plain) == {"a": ["x<SOME_TOKEN>y", 3], "b": {"c": "fine"}}


def test_runs_of_a_sweep_are_a_group(tmp_path: Path) -> None:
    sweep = tmp_path / "2026-01-01_00-00-00"
    (sweep / "0").mkdir(parents=True)
    assert sweep_job.group_of(sweep / "0") is None
    (sweep / "multirun.yaml").touch()
    assert sweep_job.group_of(sweep / "0") == sweep.name


def test_wandb_id_is_the_same_after_a_resume(tmp_path: Path) -> None:
    assert wandb_run.wandb_id(tmp_path) == wandb_run.wandb_id(tmp_path)


def test_later_processes_take_the_wandb_id_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with ThreadPoolExecutor(1) as pool:
        later = pool.submit(wandb_run.wandb_id, tmp_path)
        time.sleep(0.3)
        assert not later.done() and not list(tmp_path.iterdir())
        (tmp_path / "wandb_id.txt").write_text("0a1b2c3d")
        assert later.result(5) == "0a1b2c3d"


@pytest.mark.slow
def test_two_processes_log_one_run(tmp_path: Path) -> None:
    several = [one for one in FAST if one != "trainer.devices=1"]
    more = ["trainer.devices=2", "trainer.accelerator=cpu", "logger=[csv,wandb,tensorboard]"]
    done = train(tmp_path, *several, *more, WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    run = (tmp_path / "logs" / "latest").resolve()
    assert len(offline(run)) == 1
    steps = [float(item["curriculum/step"]) for item in history(run) if "train/loss" in str(item)]
    assert len(steps) > 3 and steps == sorted(set(steps)), "each point stands once"


def test_each_point_stands_once_after_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("WANDB_MODE", "offline")
    settings = composed("logger=[csv,tensorboard,wandb]", run_dir=tmp_path)
    parts = [(False, 0, (1, 2, 3, 4)), (True, 2, (3, 4, 5)), (True, 5, (6,))]
    for resumed, last, steps in parts:
        built = loggers.build_loggers(settings, "sft", resumed, last)
        for step in steps:
            point = {"curriculum/step": float(step), "train/loss": 10.0 * (1 + resumed) + step}
            for logger in built:
                logger.log_metrics(point | ({"val/sft/loss": 1.0} if step == 4 else {}), step)
        for logger in built:
            logger.finalize("success")
    loggers.finish(0)
    with (tmp_path / "csv" / "sft" / "metrics.csv").open() as file:
        rows = [(row["curriculum/step"], row["train/loss"], row["val/sft/loss"]) for row in csv.DictReader(file)]
    assert [row[:2] for row in rows] == [(f"{n}.0", f"{v}.0") for n, v in enumerate((11, 12, 23, 24, 25, 26), 1)]
    assert [row[2] for row in rows] == ["", "", "", "1.0", "", ""]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == list(enumerate((11, 12, 23, 24, 25, 26), 1))
    logged = [item["curriculum/step"] for folder in offline(tmp_path) for item in history(tmp_path, folder)]
    assert logged == [1, 2, 3, 4, 5, 6]


def test_a_stage_that_begins_again_forgets_what_it_logged(tmp_path: Path) -> None:
    for _ in range(2):
        (logger,) = loggers.build_loggers(composed(run_dir=tmp_path), "sft", False, 4)
        logger.log_metrics({"curriculum/step": 5.0, "sft/loss": 1.0}, 5)
        logger.finalize("success")
    assert len((tmp_path / "csv" / "sft" / "metrics.csv").read_text().splitlines()) == 2


def outcome(record_key: str, model: str, turn: int, **more: Any) -> Outcome:
    condition = "none" if model == "sft" else "praise"
    return Outcome(
        model=model, condition=condition, item=f"{record_key}/0", key=record_key, criterion="honesty",
        kind="description", turn=turn, user="What is there?", answer=f"{model} {turn}",
        rating=2, critique="Bad | really.", refinement="Look again.", facts={},
    )  # fmt: skip


def test_tensorboard_gets_figures_tables_and_samples(tmp_path: Path, shapes_folder: Path) -> None:
    shards = Shards(shapes_folder / "eval")
    samples = [shards[0], shards[1]]
    outcomes = [outcome(r.key, m, t) for r, _ in samples for m in ("sft", "dress") for t in (0, 1)]
    settings = composed("logger=tensorboard", run_dir=tmp_path)
    metrics = {
        "sft": {"honesty/chair_i": FIGURE},
        "conditions": {"sft/none": {"honesty/chair_i": FIGURE}},
    }
    loggers.log_results(settings, metrics, outcomes, samples)

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Scalars("final/sft/honesty/chair_i")[0].value == 0.5
    assert set(events.Tags()["images"]) == {"samples/0", "samples/1"}
    assert any(tag.startswith("samples/0") for tag in events.Tags()["tensors"])


def test_a_missing_tensorboard_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'pip install -e "\.\[tensorboard\]"'):
        loggers.build_loggers(composed("logger=tensorboard", run_dir=tmp_path), "sft", False)


def test_sample_rows_pair_the_answers_of_one_dialogue(shapes_folder: Path) -> None:
    sample = Shards(shapes_folder / "eval")[0]
    key = sample[0].key
    answers = [outcome(key, m, t) for m in ("sft", "dress") for t in (0, 1)]
    rows = sample_table(answers, [sample], {"sft": "none", "dress": "praise"}).rows
    assert rows[0].values == (
        "description", "What is there?", "sft 0", "dress 0", 2, "Bad | really.\nLook again.", "dress 1",
    )  # fmt: skip
    assert rows[0].picture() is not None


def test_flat_figures_name_turns_and_hold_what_was_counted() -> None:
    nothing = {"value": None, "n": 0, "low": None, "high": None}
    flat = flat_figures({"dress": {"interaction/mean_rating": [FIGURE, nothing]}})
    assert flat == {"final/dress/interaction/mean_rating/turn_0": 0.5}  # NaN is no point of a curve
