"""Where metrics go: what a real run logs, and that no secret is among it."""

import csv
import dataclasses
import json
import re
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT, composed
from test_command_line import FAST, environment, train

from dress.base.errors import ConfigError
from dress.base.redaction import redacted
from dress.config.consent import checked_run
from dress.data.shards import Shards
from dress.run import dashboard, loggers, sweep_job, wandb_run
from dress.run.panels import logged_names
from dress.run.run_results import run_results

CANARY = "canary-0a1b2c3d4e5f6a7b8c9d"
FIGURE = {"value": 0.5, "n": 2, "low": 0.1, "high": 0.9}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real tiny run with every logger, offline, with a secret around."""
    cwd = tmp_path_factory.mktemp("wandb")
    done = train(
        cwd, *FAST, "eval.turns=3", "curriculum.stages.sft.steps=5", "trainer.log_every_n_steps=2",
        "logger=[csv,wandb,tensorboard,mlflow]", "logger.wandb.api_key_env=MY_KEY", "logger.wandb.tags=[first, try]",
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
    """Points over steps."""
    return [item for item in points(run, folder) if "round" not in item]


def points(run: Path, folder: Path | None = None) -> list[dict[str, Any]]:
    return [r["history"]["item"] for r in records(run, folder) if r["type"] == "history"]


@pytest.fixture(scope="module")
def written(run: Path) -> list[dict[str, Any]]:
    return records(run)


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


def test_wandb_is_told_what_was_asked_for(written: list[dict[str, Any]]) -> None:
    (begun,) = [r["run"] for r in written if r["type"] == "run"]
    assert (begun["display_name"], begun["run_group"], begun["notes"]) == ("mine", "ours", "What is tried")
    assert begun["tags"] == ["first", "try"]
    assert any("stage 2/5 sft" in json.dumps(r) for r in written if r["type"] == "output_raw"), "its console"


def artifacts(written: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [r["artifact"] for r in written if r["type"] == "artifact" and r["artifact"]["type"] == kind]


def test_artifacts_say_what_was_read_and_made(run: Path, written: list[dict[str, Any]]) -> None:
    of = (run / "wandb_id.txt").read_text()
    models = artifacts(written, "model")
    assert [one["name"] for one in models] == [f"model-{of}"] * 3
    assert [set(one["aliases"]) for one in models] == [{stage, "latest"} for stage in ("align", "sft", "dress")]
    contents = [{file["path"] for file in one["manifest"]["contents"]} for one in models]
    assert contents == [{"model.safetensors", "model.json", "tokenizer.json"}] * 3
    datasets = {one["description"]: one for one in artifacts(written, "dataset")}
    assert {name for name, one in datasets.items() if one.get("use_after_commit")} == {
        "align", "sft", "prompts", "eval",
    }  # fmt: skip
    for name, one in datasets.items():
        shards = run / "stages" / name / "shards" if name == "collect" else data_folder(run) / name
        assert one["name"] == f"records-{Shards(shards).fingerprint}"
        assert [file["path"] for file in one["manifest"]["contents"]] == ["shards.json"], "no picture is sent"
    learned = json.loads(models[-1]["metadata"])
    assert learned["inputs"] == [datasets["collect"]["name"], f"model-{of}:sft"], "lineage"
    assert json.loads(datasets["collect"]["metadata"])["inputs"] == [datasets["prompts"]["name"]]
    (report,) = artifacts(written, "report")
    assert {file["path"] for file in report["manifest"]["contents"]} == {"report.html", "metrics.json"}


def data_folder(run: Path) -> Path:
    (folder,) = (run.parents[2] / "data" / "shapes").iterdir()
    return folder


def test_what_a_stage_made_is_logged_once_also_after_a_resume(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_run, "open_run", lambda *_: pytest.fail("opened again"))
    assert (run / "wandb_stages.txt").read_text().split() == ["align", "sft", "collect", "dress", "eval"]
    settings = composed("logger=wandb", run_dir=run)
    wandb_run.stage_done(settings, "wandb", SimpleNamespace(name="sft"), run / "stages" / "sft")  # type: ignore[arg-type]


def test_a_logger_that_fails_at_the_end_ends_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "csv" / "metrics.csv").mkdir(parents=True)
    loggers.log_results(composed("logger=csv", run_dir=tmp_path), {"sft": {"honesty/chair_i": FIGURE}}, [], [])
    assert "logger.csv: the results failed: " in capsys.readouterr().err


def test_rounds_have_an_axis_of_their_own(run: Path, written: list[dict[str, Any]]) -> None:
    rows = [item for item in points(run) if "round" in item]
    assert [row["round"] for row in rows] == [0, 0, 1], "collected; then sft, dress"
    assert 1 <= rows[0]["round/collected/honesty"] <= 4
    final = history(run)[-1]
    for row, model in zip(rows[1:], ("sft", "dress"), strict=True):
        for name in ("helpfulness/mean_rating", "honesty/coverage", "harmlessness/safe_share"):
            assert row[f"round/{name}"] == final[f"final/{model}/{name}"]
    axes = {r["metric"].get("name"): r["metric"].get("step_metric") for r in written if r["type"] == "metric"}
    assert axes["round/honesty/coverage"] == axes["round/collected/honesty"] == "round"
    assert {f"time/{stage}" for stage in ("align", "sft", "collect", "dress", "eval")} <= final.keys()


def named(value: Any) -> set[str]:
    """Every text in plain data."""
    if isinstance(value, str):
        return {value}
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return set().union(*map(named, inner))


def test_every_panel_of_the_workspace_shows_what_the_run_has_logged(run: Path) -> None:
    logged = {name.removesuffix("._type") for item in points(run) for name in item}  # of pictures, pages, tables
    settings = checked_run(run / "config.json").model_copy(update={"run_dir": str(run)})
    results = run_results(settings, json.loads((run / "metrics.json").read_text()), [], [])
    names = [*logged_names(settings, results), *results.tables, "tables/samples", "samples", "report"]
    assert set(names) <= logged, "each name is one of the run's"
    spec = dashboard.spec(dashboard.workspace("us", "dress", settings, names))
    sections = spec["section"]["panelBankConfig"]["sections"]
    assert [one["name"] for one in sections] == [
        "Losses by phase", "3H by round", "3H of the models", "Samples and tables", "Interaction", "Speed", "Optimizer",
    ]  # fmt: skip
    for panel in (panel for one in sections for panel in one["panels"]):
        config = panel["config"]
        shown = {*(config.get("metrics") or []), *(config.get("mediaKeys") or [])}
        if panel["viewType"].startswith("Weave"):
            shown = named(config) & {name for name in logged if name.startswith("tables/")}
        assert shown and shown <= logged, panel
        assert panel["viewType"] != "Run History Line Plot" or config["xAxis"] in ("curriculum/step", "round")
    losses = sections[0]["panels"][0]["config"]
    assert set(losses["metrics"]) == {"align/loss", "sft/loss", "critique/loss", "refinement/loss"}
    assert {one for panel in sections[3]["panels"] for one in named(panel["config"])} >= {"samples", "tables/samples"}


def test_one_mlflow_run_for_all_stages(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{run / 'mlflow.db'}")
    (experiment,) = (one for one in client.search_experiments() if one.name == "dress")
    (one,) = client.search_runs([experiment.experiment_id])
    assert (one.info.run_id, one.info.status) == ((run / "mlflow_id.txt").read_text(), "FINISHED")
    assert one.info.run_name == "dress_full-0" and one.data.params["curriculum.stages.sft.steps"] == "5"
    steps = [metric.step for metric in client.get_metric_history(one.info.run_id, "train/loss")]
    assert steps == [item["curriculum/step"] for item in history(run)[:-1]]
    rounds = client.get_metric_history(one.info.run_id, "round/honesty/coverage")
    assert sorted(metric.step for metric in rounds) == [0, 1]
    files = {file.path for file in client.list_artifacts(one.info.run_id)}
    assert files >= {"report.html", "metrics.json", "tables", "samples"}


def test_csv_holds_the_results_too(run: Path) -> None:
    def rows(name: str) -> list[dict[str, str]]:
        with (run / "csv" / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    (flat,), final = rows("metrics"), history(run)[-1]
    assert float(flat["final/dress/honesty/coverage"]) == final["final/dress/honesty/coverage"]
    assert flat["curriculum/step"] == "9" and float(flat["time/sft"]) > 0
    assert [(row["round"], row["model"]) for row in rows("rounds")] == [("0", "sft"), ("1", "dress")]
    assert {row["model/condition"] for row in rows("figures")} == {
        "sft/none", "sft/praise", "dress/none", "dress/praise",
    }  # fmt: skip
    assert len(rows("samples")) == 4 and rows("ratings") and rows("collected")


def test_tensorboard_has_charts_and_final_figures_in_its_table_of_settings(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
    from tensorboard.plugins.hparams.metadata import parse_experiment_plugin_data

    events = EventAccumulator(str(run / "tensorboard")).Reload()
    first, last = (Layout.FromString(e.tensor_proto.string_val[0]) for e in events.Tensors("custom_scalars__config__"))
    assert [one.title for one in first.category] == ["Losses by phase", "Speed", "Optimizer"], "while it trains"
    assert [one.title for one in last.category][1:3] == ["3H by round", "3H of the models"]
    tags = events.Tags()["scalars"]
    for chart in (chart for category in last.category for chart in category.chart):
        assert all(any(re.match(tag, one) for one in tags) for tag in chart.multiline.tag), chart.title
    content = events.summary_metadata["_hparams_/experiment"].plugin_data.content
    shown = {metric.name.tag for metric in parse_experiment_plugin_data(content).metric_infos}
    assert shown >= {"train/loss", "final/dress/honesty/chair_i", "final/dress/interaction/mean_rating/turn_2"}
    assert [(e.step, e.value) for e in events.Scalars("round/harmlessness/safe_share")] != []


def test_the_commands_of_the_page_work_on_such_a_run(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs" / "tracking.md").read_text()
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S)
    lines = [line for kind, block in blocks if not kind for line in block.splitlines()]
    said = []
    for command, *words in (shlex.split(line) for line in lines if line.strip() and not line.startswith("python ")):
        short = {"tensorboard": ["--inspect"], "wandb": ["--dry-run"]}[command]  # neither serves nor sends
        done = subprocess.run(
            [str(Path(sys.executable).with_name(command)), *words, *short], cwd=run.parents[2], env=environment(),
            capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
        said.append(done.stdout + done.stderr)
    assert len(said) == 3 and "train/loss" in said[0]
    assert all("Would sync 1 run" in one for one in said[1:])
    monkeypatch.chdir(run.parents[2])
    first, second = (block for kind, block in blocks if kind == "python")
    exec(first, {})
    assert capsys.readouterr().out.split("\n")[:2] == ["Losses by phase", "Speed"]
    assert "from dress.run.wandb_report import report" in second  # below: it asks W&B for the project


def test_a_report_over_several_runs(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wandb_workspaces.reports.v2 import interface

    from dress.run.wandb_report import differences, logged_run, report

    monkeypatch.setattr(interface, "_get_api", lambda: None)  # it asks W&B whether there is such a project
    monkeypatch.setattr(interface, "execute_graphql", lambda *_, **__: {"project": {"internalId": "x"}})
    made = report([run, run], entity="us")
    text = made._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)
    for shown in ("critique/loss", "round/honesty/coverage", "tables/samples", (run / "wandb_id.txt").read_text()):
        assert shown in text
    assert "| mine: dress/praise |" in made.blocks[6].text
    other = dataclasses.replace(logged_run(run), settings=composed("seed=7", *FAST, run_dir=run))
    assert {"seed", "curriculum.stages.sft.steps"} <= set(differences([logged_run(run), other]).columns)
    with pytest.raises(ConfigError, match=r"no metrics\.json"):
        report([run.parent])


def test_samples_are_pictures_with_answers(run: Path) -> None:
    kept = [file for file in (run / "wandb" / "data").rglob("*") if file.is_file()]
    assert len([file for file in kept if file.read_bytes().startswith(b"\x89PNG")]) == 4
    end = history(run)[-1]
    assert end["samples.count"] == 4 and "question: " in end["samples.captions"][0]


def test_no_secret_is_written_anywhere(run: Path) -> None:
    files = [file for file in run.rglob("*") if file.is_file() and not file.is_symlink()]
    assert len(files) > 60 and run / "mlflow.db" in files
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
