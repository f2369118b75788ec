"""The start of a run: what is wrong is said before anything is made; then the log holds what is said."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from conftest import tiny_settings
from rich.console import Console
from test_command_line import FAST, train

from dress.base import run_log
from dress.base.files import read_json
from dress.base.progress import CurriculumProgress
from dress.base.run_log import RunLog
from dress.base.terminal import Terminal
from dress.run import training
from dress.train.curriculum import Curriculum

LLM = ["annotator=llm", "annotator.model=m", "annotator.base_url=http://127.0.0.1:9/v1"]


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["data.path=nowhere"], r"nowhere: expected shards \(\*\.tar\) for stage align in nowhere/align \("),
        (["data.sft=nowhere"], r"expected shards \(\*\.tar\) for stage sft in .*nowhere \(data\.sft\)"),
        (["reuse=nowhere"], "expected a run folder with stages/, found none"),
        (["model.vision={name: ViT-B-99, vit: null}"], "ViT-B-99"),
        (["model.vision={name: ViT-B-32, vit: null, weights: nowhere.pt}"], "nowhere"),
        (["curriculum.stages.sft.weights=./nowhere"], "nowhere"),
        ([*LLM, "annotator.api_key_env=NO_SUCH_KEY"], "NO_SUCH_KEY"),
        (["trainer.accelerator=mps"], "trainer: Lightning refuses these settings"),
        (["optimizer.betas=[2, 3]"], "optimizer: torch.optim.AdamW refuses its arguments: Invalid beta"),
        (
            ["callbacks.x={_target_: lightning.pytorch.callbacks.Timer, interval: never}"],
            "callbacks: Lightn",
        ),
    ],
    ids=lambda value: value[-1].partition("=")[0] if isinstance(value, list) else "",
)
def test_a_start_that_fails_leaves_nothing(
    tmp_path: Path, typed: list[str], told: str, shapes_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = tiny_settings(tmp_path, "data=shards", f"data.path={shapes_folder}", *typed, run="logs/x/run")
    with pytest.raises((ValueError, FileNotFoundError), match=told) as error:
        training.train(settings, Console(quiet=True))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["model.language.name=./nope", "model.language.config=null"], "model.language: cannot load ./nope"),
        (["model.language.config.model_type=nope"], "model.language.config: no configuration of 'nope'"),
        (["model.vision={name: ViT-B-99, vit: null}"], "ViT-B-99.*no model of this name"),
        (["model.vision={name: ViT-B-32, vit: null, weights: nope}"], "weights=nope.*no weights of this tag"),
        (["model.vision.weights=nope"], "model.vision.weights=nope: with model.vision.vit expected a stage's folder"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_no_picture_is_drawn_for_a_model_that_is_not_there(
    tmp_path: Path, typed: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = tiny_settings(tmp_path, *typed, run="logs/x/run")
    with pytest.raises(ValueError, match=told):
        training.train(settings, Console(quiet=True))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_same_command_works_after_the_mend(tmp_path: Path, shapes_folder: Path) -> None:
    command = ["experiment=sft_only", "curriculum.run=[sft]", *FAST, "data=shards", "data.path=here", "run_dir=mine"]
    assert train(tmp_path, *command).returncode == 1 and not (tmp_path / "mine").exists()
    (tmp_path / "here").symlink_to(shapes_folder)
    done = train(tmp_path, *command)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "mine"
    log = (run / "train.log").read_text()
    assert log.strip().splitlines() == done.stdout.strip().splitlines(), "what the terminal said"
    assert "\x1b" not in log and (run / ".hydra" / "overrides.yaml").is_file()
    stages = read_json(run / "provenance.json")["stages"]
    assert stages["sft"]["records"] == 30 and {"steps", "lr", "records_per_step"} <= stages["sft"].keys()
    before = (run / "train.log").read_bytes()
    again = train(tmp_path, *command)
    assert again.returncode == 1 and again.stderr.startswith("mine already holds a run; to go on with it: resume=mine")
    assert (run / "train.log").read_bytes() == before


def test_from_python_too(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, "data=shards", f"data.path={tmp_path / 'nowhere'}", run="deep/run")
    with pytest.raises(FileNotFoundError, match="expected shards"):
        training.train(settings, Console(quiet=True))
    assert not list(tmp_path.iterdir())
    (tmp_path / "deep" / "run").mkdir(parents=True)
    (tmp_path / "deep" / "run" / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match="expected shards"):
        training.train(settings, Console(quiet=True))
    assert [file.name for file in (tmp_path / "deep" / "run").iterdir()] == ["notes.txt"]


def test_what_stops_a_run_stands_in_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny_settings(tmp_path, "curriculum.run=[align]")

    def bug(self: Curriculum, name: str, task: object) -> None:
        raise KeyError("a bug in training")

    monkeypatch.setattr(Curriculum, "_train", bug)
    with pytest.raises(KeyError):
        training.train(settings, Console(quiet=True))
    log = (tmp_path / "run" / "train.log").read_text()
    assert "Traceback (most recent call last)" in log and "a bug in training" in log and "in bug" in log
    assert "shapes world: done" in log, "what was said before it began, also to a quiet console"


def test_the_log_is_plain_text_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setenv("SOME_API_KEY", "canary-1234567890")
    screen = io.StringIO()
    console = Terminal(file=screen, force_terminal=True, width=40)
    with RunLog(console, tmp_path) as log:
        assert not list(tmp_path.iterdir())
        console.print("before, canary-1234567890", style="bold")
        log.begin()
        print("\x1b[31ma warning\x1b[0m", file=sys.stderr)
        progress = CurriculumProgress(console, {"sft": ""})
        with progress:
            progress.start("sft", 2)
            progress.advance(2, "sft/loss 1.0")
            console.print("a long line " * 20)
            progress.end()
    run_log.add("afterwards")
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert lines[:3] == ["before, <SOME_API_KEY>", "a warning", "stage 1/1 sft: 2 to do"]
    assert lines[3:] == ["a long line " * 20, "stage 1/1 sft: done in 0 s  sft/loss 1.0", "afterwards"]
    assert re.search(r"\x1b\[", screen.getvalue()), "the terminal has colours and bars"
