"""Panels, workspaces and MLflow runs without a training run: names alone, and W&B's server on loopback."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, composed
from scripts import run_script
from test_command_line import environment

from dress.run import dashboard, loggers, mlflow_run
from dress.run.panels import logged_names, sections
from dress.run.sweep_job import group_of, varied_settings

KEY = "canary" * 7
NAMES = ["curriculum/step", "sft/loss", "train/loss", "final/dress/honesty/chair_i", "round", "round/honesty/chair_i"]


class Server(BaseHTTPRequestHandler):
    """The two answers of W&B that saving a view takes."""

    saved: list[dict[str, Any]]
    known: bool

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        viewer = {"id": "1", "entity": "us", "username": "me", "email": "", "flags": "{}", "teams": {"edges": []}}
        answer: dict[str, Any] = {"viewer": viewer if self.known else None}
        if "upsertView" in asked["query"]:
            self.saved.append(asked["variables"])
            answer = {"upsertView": {"view": {"id": "v", "name": "nw-abc-v"}, "inserted": True}}
        body = json.dumps({"data": answer}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def wandb_server(known: bool = True) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server's address, and what it is sent; it may know no account."""
    saved: list[dict[str, Any]] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Keeping", (Server,), {"saved": saved, "known": known}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", saved
    finally:
        server.shutdown()
        server.server_close()


SAVE = """
import sys
from types import SimpleNamespace

from dress import config
from dress.run.composing import compose
from dress.run.dashboard import save_workspace
from dress.run.only_warned import only_warned

folder, names = sys.argv[1], sys.argv[2].split()
settings = config.check(compose("train", [f"run_dir={folder}"]))
for offline in (True, False, False):
    run = SimpleNamespace(offline=offline, entity="us", project="dress")
    with only_warned("the workspace"):
        print(save_workspace(run, settings, names))
"""


def saving(folder: Path, url: str) -> subprocess.CompletedProcess[str]:
    """What a run that is logged offline, and one that is logged online twice, say of their workspace."""
    (folder / "src").mkdir()
    (folder / "src" / "save.py").write_text(SAVE)
    env = environment(WANDB_BASE_URL=url, WANDB_API_KEY=KEY, WANDB_SILENT="true")
    done = run_script(folder / "src" / "save.py", str(folder), " ".join(NAMES), cwd=ROOT, env=env)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_a_run_logged_online_saves_its_workspace_once(tmp_path: Path) -> None:
    with wandb_server() as (url, saved):
        done = saving(tmp_path, url)
    offline, first, second = done.stdout.split()
    assert offline == "None" and first == second == (tmp_path / dashboard.WORKSPACE).read_text()
    assert first == f"{url}/us/dress?nw=abc"
    (view,) = saved
    assert (view["entityName"], view["projectName"]) == ("us", "dress") and "sft/loss" in view["spec"]


def test_a_workspace_that_cannot_be_saved_is_a_line(tmp_path: Path) -> None:
    with wandb_server(known=False) as (url, saved):
        done = saving(tmp_path, url)
    assert done.stdout.split() == ["None"] and not saved and not (tmp_path / dashboard.WORKSPACE).exists()
    assert done.stderr.count("the workspace failed: ") == 2 and KEY not in done.stderr


def test_phases_that_a_run_has_not_give_no_panel() -> None:
    losses = {
        name: sections(logged_names(composed(f"experiment={name}")))[0].panels[0].names
        for name in ("sft_only", "dress_full")
    }
    assert "critique/loss" not in losses["sft_only"] and "critique/loss" in losses["dress_full"]
    assert sections([]) == [] and [one.title for one in sections(["round/honesty/chair_i"])] == ["3H by round"]


def test_runs_of_a_sweep_share_a_workspace_of_groups(tmp_path: Path) -> None:
    job = tmp_path / "sweep" / "0"
    (job / ".hydra").mkdir(parents=True)
    assert varied_settings(job) == [] and group_of(job) is None
    multirun = {"hydra": {"overrides": {"task": ["experiment=sft_only", "curriculum.stages.sft.lr=1e-3,1e-4"]}}}
    (job.parent / "multirun.yaml").write_text(yaml.safe_dump(multirun))
    (job / ".hydra" / "overrides.yaml").write_text("[experiment=sft_only, curriculum.stages.sft.lr=1e-3]")
    varied = varied_settings(job)
    assert varied == ["curriculum.stages.sft.lr"] and group_of(job) == "sweep"
    spec = dashboard.spec(dashboard.workspace("us", "dress", composed(run_dir=job), NAMES, varied))
    (runs,) = spec["section"]["runSets"]
    assert [one["name"] for one in runs["grouping"]] == ["group"]
    first = spec["section"]["panelBankConfig"]["sections"][0]
    assert first["name"] == "Sweep" and first["panels"][0]["viewType"] == "Parallel Coordinates Plot"
    axes = [column["accessor"] for column in first["panels"][0]["config"]["columns"]]
    assert axes == ["config:curriculum.value.stages.sft.lr", "summary:final/dress/honesty/chair_i"]


def log(settings: Any, steps: list[int], resumed: bool) -> None:
    (logger,) = loggers.build_loggers(settings, "sft", resumed, 0)
    for step in steps:
        logger.log_metrics({"curriculum/step": float(step), "train/loss": 10.0 * resumed + step}, step)
    logger.finalize("success")


@pytest.mark.slow
def test_a_resumed_mlflow_run_is_the_same_and_each_point_stands_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("SOME_TOKEN", "canary-0a1b2c3d")
    uri = f"file:{tmp_path / 'mlruns'}"
    typed = ("logger=mlflow", f"logger.mlflow.tracking_uri={uri}", "logger.mlflow.run_name=mine")
    settings = composed(*typed, run_dir=tmp_path).model_copy(update={"scale": "canary-0a1b2c3d"})
    log(settings, [1, 2, 3], False)
    loggers.finish(1)
    log(settings, [2, 3, 4], True)
    client = mlflow_run.open_run(settings, "mlflow").experiment
    run_id = (tmp_path / "mlflow_id.txt").read_text()
    assert client.get_run(run_id).info.status == "RUNNING"
    loggers.finish(0)
    one = client.get_run(run_id)
    assert (one.info.status, one.info.run_name) == ("FINISHED", "mine")
    assert one.data.params["scale"] == "<SOME_TOKEN>"
    assert [(m.step, m.value) for m in client.get_metric_history(run_id, "train/loss")] == [
        (1, 1), (2, 2), (3, 3), (4, 14),
    ]  # fmt: skip
    assert len(client.search_runs([one.info.experiment_id])) == 1


def test_an_address_of_mlflow_that_is_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    settings = composed("logger=mlflow", f"logger.mlflow.tracking_uri=file:{tmp_path}", run_dir=tmp_path)
    with pytest.raises(ValueError, match=r"^logger\.mlflow: MLflow: .*maintenance mode"):
        loggers.RunLoggers(settings).begin(settings)


def test_any_other_logger_gets_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lines_of.py").write_text(LINES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = composed("logger=csv", "+logger.lines._target_=lines_of.Lines", run_dir=tmp_path)
    figure = {"value": 0.5, "n": 2, "low": 0.1, "high": 0.9}
    loggers.log_results(settings, {"sft": {"honesty/chair_i": figure}}, [], [])
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert rows == [{"final/sft/honesty/chair_i": 0.5}, {"round": 0.0, "round/honesty/chair_i": 0.5}]


LINES = """
import json
from pathlib import Path
from lightning.pytorch.loggers import Logger


class Lines(Logger):
    def __init__(self, save_dir, version):
        super().__init__()
        self.file = Path(save_dir) / f"{version}.jsonl"

    name, version = "lines", "0"

    def log_hyperparams(self, *args, **more):
        pass

    def log_metrics(self, metrics, step=None):
        with self.file.open("a") as out:
            print(json.dumps(metrics), file=out)
"""
