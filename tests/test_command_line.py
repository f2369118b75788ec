"""The command line as a person meets it: what real processes print, leave behind and return."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, TINY
from omegaconf import OmegaConf
from scripts import run_script

from dress import config
from dress.run.start import _dirty, _git
from dress.run.sweep import SweepTable

FAST = [*(text for text in TINY if text.startswith("model.")), "debug=fast_dev_run", "trainer.devices=1"]
"""A run of seconds: few steps on few records of a very small model."""


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "src" / "train.py"), *arguments]


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "HYDRA"))}
    return kept | {"OMP_NUM_THREADS": "1"} | more


def train(cwd: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return run_script(ROOT / "src" / "train.py", *arguments, cwd=cwd, env=environment(**more))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where `experiment=sft_only` has run; its log lies in `out.txt`."""
    cwd = tmp_path_factory.mktemp("home")
    done = train(cwd, "experiment=sft_only", *FAST)
    assert done.returncode == 0, done.stderr
    (cwd / "out.txt").write_text(done.stdout)
    return cwd


# --- typing errors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (
            "trainig.gradient_clip_val=1",
            "trainig.gradient_clip_val: no such setting. Did you mean trainer.gradient_clip_val?\n",
        ),
        ("gradient_clip_val=1", "gradient_clip_val: no such setting. Did you mean trainer.gradient_clip_val?\n"),
        ("experimnt=dress_full", "experimnt: no such setting. Did you mean experiment?\n"),
        ("experiment=dress_ful", "experiment=dress_ful: no such option. Did you mean dress_full? "),
        ("seed=0,1", "seed=0,1: several values; add -m"),
        ("trainer.gradient_clip_val=[1", "trainer.gradient_clip_val=[1: cannot be read"),
    ],
)
def test_a_typo_is_one_line_with_the_nearest_key(tmp_path: Path, typed: str, told: str) -> None:
    done = train(tmp_path, typed)
    assert done.returncode == 2
    assert done.stderr.startswith(told) and done.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("*"))


def test_an_added_typo_reaches_the_typed_model_and_leaves_no_folder(tmp_path: Path) -> None:
    done = train(tmp_path, "+typo=1")
    assert done.returncode == 1 and "typo: no such setting" in done.stderr
    assert "Traceback" not in done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.name != "logs"]


def test_full_error_adds_the_traceback(tmp_path: Path) -> None:
    assert "Traceback" in train(tmp_path, "+typo=1", HYDRA_FULL_ERROR="1").stderr


def test_a_missing_value_is_named(tmp_path: Path) -> None:
    done = train(tmp_path, "data=shards")
    assert (done.returncode, done.stderr) == (1, "data.path: no value. Give one: data.path=…\n")


@pytest.mark.slow
def test_a_missing_file_is_a_message(tmp_path: Path) -> None:
    done = train(tmp_path, "data=shards", "data.path=nowhere")
    assert done.returncode == 1 and "nowhere" in done.stderr and "Traceback" not in done.stderr


def test_help_and_typos_load_nothing_heavy() -> None:
    heavy = "{'torch', 'lightning', 'transformers'}"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, dress.run.command_line; print({heavy} & set(sys.modules))"],
        env=environment(PYTHONPATH=str(ROOT / "src")), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "set()\n"


def test_help_helps(tmp_path: Path) -> None:
    done = train(tmp_path, "--help")
    assert done.returncode == 0
    for said in ("experiment=dress_full", "-m seed=0,1,2", "resume=logs/latest", "sft_only"):
        assert said in done.stdout
    assert "metrics.json" in done.stdout, "where results go"
    assert max(map(len, done.stdout.splitlines())) < 120


def test_show_config_prints_what_would_run_and_stops(tmp_path: Path) -> None:
    done = train(tmp_path, "show=config", "trainer.gradient_clip_val=0.5")
    assert done.returncode == 0
    assert config.check(yaml.safe_load(done.stdout)).trainer.gradient_clip_val == 0.5
    assert not [path for path in tmp_path.rglob("*") if path.name != "logs"]


def test_what_a_stage_has_from_another_is_shown_where_that_one_has_it_from(tmp_path):
    done = train(tmp_path, "show=config", "experiment=dress_unconditional", "curriculum.stages.collect.turns=2")
    shown = done.stdout.partition("    collect3:")[2]
    lines = dict(re.findall(r"^      (\w+): .*?# (.*)$", shown, re.M)[:12])
    experiment = "configs/experiment/dress_unconditional.yaml"
    assert lines["turns"] == "command line, like collect2" and lines["top_p"] == "default"
    assert lines["records"] == "configs/scale/tiny.yaml, like collect2"
    assert (lines["model"], lines["data"]) == (experiment, f"{experiment}, like collect2")


def test_hydras_own_look_at_the_config_still_works(tmp_path: Path) -> None:
    done = train(tmp_path, "--cfg", "job")
    assert done.returncode == 0 and yaml.safe_load(done.stdout)["name"] == "dress_full"


# --- a run and its folder -------------------------------------------------------------------------


def test_run_ends_with_the_table_and_where_things_are(finished: Path) -> None:
    out = (finished / "out.txt").read_text()
    folder = os.readlink(finished / "logs" / "latest")
    assert "safe answers" in out and f"logs/{folder}" in out
    assert "GPU available" not in out


def test_latest_is_a_relative_link_to_the_newest_run(finished: Path) -> None:
    link = os.readlink(finished / "logs" / "latest")
    assert re.fullmatch(r"sft_only/[\d_-]+", link), "a path that needs no quotes"
    assert (finished / "logs" / link / "metrics.json").exists()


def test_config_is_saved_as_it_was_checked(finished: Path) -> None:
    saved = json.loads((finished / "logs" / "latest" / "config.json").read_text())
    settings = config.check(saved)
    assert settings.name == "sft_only" and settings.model_dump() == saved


def test_provenance(finished: Path) -> None:
    facts = json.loads((finished / "logs" / "latest" / "provenance.json").read_text())
    assert facts["packages"]["torch"] and facts["machine"]["fp32_gemm_gflops"] > 0
    assert "experiment=sft_only" in shlex.split(facts["command"])
    assert set(facts["git"]) == {"commit", "dirty"}


def test_provenance_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert _git("rev-parse", "HEAD") is None and _dirty() is None


def test_a_folder_is_never_used_twice(finished: Path) -> None:
    before = (finished / "logs" / "latest" / "config.json").read_text()
    done = train(finished, "seed=7", f"hydra.run.dir={(finished / 'logs' / 'latest').resolve()}")
    assert done.returncode == 1 and "already holds a run" in done.stderr
    assert (finished / "logs" / "latest" / "config.json").read_text() == before


# --- resume ---------------------------------------------------------------------------------------


def test_resuming_a_finished_run_says_so_and_shows_its_table(finished: Path) -> None:
    folders = sorted((finished / "logs" / "sft_only").iterdir())
    done = train(finished, "resume=logs/latest")
    assert done.returncode == 0, done.stderr
    assert "is finished" in done.stdout and "safe answers" in done.stdout
    assert sorted((finished / "logs" / "sft_only").iterdir()) == folders, "a new folder was left"


def test_a_batch_of_a_finished_run_is_shown(finished: Path) -> None:
    done = train(finished, "resume=logs/latest", "show=batch", "stage=align")
    assert done.returncode == 0, done.stderr
    assert "Write a caption." in done.stdout


def test_resume_takes_the_saved_settings(finished: Path) -> None:
    done = train(finished, "resume=logs/latest", "show=config", "training.threads=1")
    shown = config.check(yaml.safe_load(done.stdout))
    assert shown.name == "sft_only" and shown.training.threads == 1
    assert Path(shown.run_dir) == (finished / "logs" / "latest").resolve()


@pytest.mark.parametrize("other", ["seed=3", "experiment=dress_full", "-m"])
def test_resume_refuses_other_settings(finished: Path, other: str) -> None:
    done = train(finished, "resume=logs/latest", other)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert other in done.stderr


@pytest.mark.parametrize("place", ["logs", "nowhere"])
def test_resume_of_no_run_is_refused(finished: Path, place: str) -> None:
    done = train(finished, f"resume={place}")
    assert done.returncode == 1
    assert done.stderr.startswith(f"{place}: expected the folder of a run")


def wait_for(found: Iterator[bool], process: subprocess.Popen[str]) -> None:
    for there in found:
        if there or process.poll() is not None:
            return
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_run_goes_on_by_the_command_it_printed(tmp_path: Path, number: int) -> None:
    arguments = ["experiment=sft_only", *FAST, "curriculum.stages.sft.steps=400"]
    process = subprocess.Popen(
        command(*arguments), cwd=tmp_path, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    stages = tmp_path / "logs" / "latest" / "stages"
    wait_for(((stages / "sft").exists() for _ in range(1200)), process)
    time.sleep(1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    typed = shlex.split(errors.strip().splitlines()[-1])
    assert typed[0] == "python" and typed[2].startswith("resume=logs/sft_only/")
    done = train(tmp_path, *typed[2:])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "logs" / "latest" / "metrics.json").exists()
    assert len(list((tmp_path / "logs" / "sft_only").iterdir())) == 1


# --- several runs ---------------------------------------------------------------------------------


def test_sweep_table_holds_every_finished_run(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = (finished / "logs" / "latest" / "metrics.json").read_text()
    for number in (0, 1, 2, 10):
        job = tmp_path / str(number)
        (job / ".hydra").mkdir(parents=True)
        overrides = ["experiment=sft_only", f"seed={number}"]
        (job / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides))
        if number != 1:  # this one did not get to its end
            (job / "metrics.json").write_text(metrics)
    sweep = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    SweepTable().on_multirun_end(sweep)
    runs = json.loads((tmp_path / "runs.json").read_text())
    assert list(runs) == ["seed=0", "seed=2", "seed=10"]
    assert runs["seed=2"]["metrics"] == json.loads(metrics)
    assert "seed=10" in capsys.readouterr().out


@pytest.mark.slow
def test_sweep_ends_with_a_table_over_its_runs(finished: Path) -> None:
    done = train(finished, "-m", "experiment=sft_only", *FAST, "seed=0,1")
    assert done.returncode == 0, done.stderr
    (file,) = (finished / "logs" / "sweeps").rglob("runs.json")
    assert not re.search(r"[=,\s\[\]]", str(file.relative_to(finished)))
    runs = json.loads(file.read_text())
    assert list(runs) == ["seed=0", "seed=1"]
    for seed, run in enumerate(runs.values()):
        job = Path(run["run_dir"])
        assert run["metrics"] == json.loads((job / "metrics.json").read_text())
        assert json.loads((job / "run.json").read_text())["seed"] == seed
    last = done.stdout[done.stdout.rindex("last model of each run") :]
    assert "seed=0" in last and "seed=1" in last and str(file.relative_to(finished)) in last


def test_sweep_refuses_several_devices_per_run(tmp_path: Path) -> None:
    done = train(tmp_path, "-m", "trainer.devices=2", "seed=0")
    assert done.returncode == 1
    assert "trainer.devices=2 does not go with -m" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["collect.py", "responder=nowhere", "out=x"],
        ["eval.py", "ckpt=nowhere"],
        ["prepare.py", "source=vlsafe", "path=nowhere", "out=x"],
    ],
    ids=lambda command: command[0],
)
def test_a_refused_command_leaves_no_file_where_it_was_called(command, tmp_path):
    script, *arguments = command
    done = run_script(ROOT / "src" / script, *arguments, cwd=tmp_path)
    assert done.returncode and "nowhere" in done.stdout + done.stderr
    assert not list(tmp_path.iterdir())
