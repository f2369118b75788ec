"""`dress export`, the stage that does the same, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from documented import commands, run
from scripts import run_script
from test_command_line import FAST, environment
from transformers import AutoModelForImageTextToText

import dress
from dress.data.shards import Shards
from dress.model.export_facts import read_export

STAGE = ["+curriculum.stages.export={kind: export, model: dress, compared: 2}", "curriculum.run=[eval,export]"]


def script(cwd: Path, name: str, *arguments: str):
    return run_script(ROOT / "src" / f"{name}.py", *arguments, cwd=cwd, env=environment())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where the whole method has run, with an export as its last stage."""
    cwd = tmp_path_factory.mktemp("home")
    done = script(cwd, "train", "experiment=dress_full", *FAST, *STAGE)
    assert done.returncode == 0, done.stderr
    assert "answers equal" in " ".join(done.stdout.split())
    return cwd


def test_the_stage_writes_a_folder_with_a_card(finished: Path) -> None:
    folder = finished / "logs" / "latest" / "stages" / "export" / "model"
    card = (folder / "README.md").read_text()
    facts = read_export(folder)
    assert facts is not None and facts.condition == "praise" and facts.stage == "dress"
    assert facts.conditions["praise"] in card and "2 of 2 prompts have the same tokens" in card
    assert "## Figures\n| model/condition | sft/none | dress/praise" in card, "the evaluation stood before"
    assert re.search(r"\| align \|.*\| sft \|.*\| dress \|", card, re.DOTALL)
    assert not list(folder.glob("*.bin")) and (folder / "model.safetensors").exists()
    assert json.loads((folder / "proof.json").read_text())["answers"] == 2


@pytest.mark.slow
def test_the_page_says_what_works(finished: Path) -> None:
    (command,) = commands("docs/exporting.md")
    assert "answers are those of the run" in " ".join(run(command, finished).split())
    page = (ROOT / "docs" / "exporting.md").read_text(encoding="utf-8")
    (stage,) = re.findall(r"^```yaml\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    assert yaml.safe_load(stage)["curriculum"]["stages"]["export"] == {"kind": "export", "model": "dress"}


def test_a_resumed_run_exports_once(finished: Path) -> None:
    folder = finished / "logs" / "latest" / "stages" / "export" / "model"
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert script(finished, "train", "resume=logs/latest").returncode == 0
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_the_command_writes_what_others_load(finished: Path) -> None:
    done = script(finished, "export", "run=logs/latest", "out=models/sft", "stage=sft", "compared=2", "condition=none")
    assert done.returncode == 0, done.stderr
    assert "2 of 2 answers are those of the run" in " ".join(done.stdout.split()).replace("2 of 2 prompts and ", "")
    out = finished / "models" / "sft"
    assert type(AutoModelForImageTextToText.from_pretrained(out)).__name__ == "LlavaForConditionalGeneration"
    assert read_export(out).condition is None and not list(out.glob("*unconditioned*"))
    again = script(finished, "export", "run=logs/latest", "out=models/sft")
    assert again.returncode == 1 and "out=models/sft: expected nothing there" in again.stderr
    assert not (finished / "models" / "sft.partial").exists()


@pytest.mark.slow
def test_an_exported_folder_is_asked_and_collected_from(finished: Path) -> None:
    folder = "logs/latest/stages/export/model"
    run, out = dress.load(finished / "logs" / "latest"), dress.load(finished / folder)
    record, image = Shards(next((finished / "data" / "shapes").iterdir()) / "eval")[0]
    question = record.dialogues[0].turns[0].user
    assert out.answer(image, question).text == run.answer(image, question).text
    assert out.condition == run.condition == "praise"
    asked = script(finished, "collect", f"responder={folder}", "data=shapes", "out=collected", "records=2",
                   "condition=praise", "annotator=oracle")  # fmt: skip
    assert asked.returncode == 0, asked.stderr
    turns = [t for record, _ in Shards(finished / "collected") for d in record.dialogues for t in d.turns]
    assert turns and all(turn.feedback for turn in turns)


@pytest.mark.slow
def test_an_exported_folder_is_trained_on(finished: Path, tmp_path: Path) -> None:
    folder = (finished / "logs" / "latest" / "stages" / "export" / "model").resolve()
    trained = script(tmp_path, "train", "experiment=sft_only", "scale=tiny", "debug=fast_dev_run", "model=hf",
                     f"model.name={folder}", "model.lora=null")  # fmt: skip
    assert trained.returncode == 0, trained.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run=nowhere", "out=x"], r"run=nowhere: expected a run folder with config\.json, found none"),
        (["run=logs/latest", "out=x", "stage=nope"], r"stage: expected one of the stages that train .*, got 'nope'"),
        (["run=logs/latest", "out=x", "adapter=true"], r"adapter=true: expected model=hf.*Leave adapter=true out"),
        (
            ["run=logs/latest", "out=x", "adapter=true", "dtype=bfloat16"],
            r"dtype=bfloat16: expected float32 with adapter",
        ),
        (["run=logs/latest", "out=link"], r"out=link: expected a folder to make, got a link"),
        (["run=logs/latest", "out=x", "condition=blame"], r"condition: .*none.*praise"),
        (["run=logs/latest"], r"out: no value\. Give one"),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_line(finished: Path, arguments: list[str], expected: str) -> None:
    (finished / "link").unlink(missing_ok=True)
    (finished / "link").symlink_to("nothing")
    done = script(finished, "export", *arguments)
    assert done.returncode in (1, 2) and re.search(expected, done.stderr), done.stderr
    assert not (finished / "x").exists() and "Traceback" not in done.stderr


def test_a_damaged_model_leaves_nothing_behind(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished / "logs" / "latest", run, ignore=shutil.ignore_patterns("export"))
    weights = run / "stages" / "dress" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    done = script(finished, "export", f"run={run}", f"out={tmp_path / 'out'}")
    assert done.returncode == 1 and "model.safetensors" in done.stderr
    assert not list(tmp_path.glob("out*"))


@pytest.mark.slow
def test_a_full_disk_is_said_and_leaves_nothing(finished: Path) -> None:
    """A limit on the size of a file fails as a full disk does."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "import dress; from dress.config import ExportCommand; from dress.run.exporting import export; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); "
        "export(ExportCommand(run='logs/latest', out='full'))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=finished, capture_output=True, text=True, env=environment())
    assert done.returncode == 1 and re.search(r"OSError: .*(full: cannot be written|File too large)", done.stderr)
    assert not list(finished.glob("full*"))


def test_a_stage_that_cannot_export_is_refused_before_training(tmp_path: Path) -> None:
    stage = "+curriculum.stages.export={kind: export, model: dress, adapter: true}"
    done = script(tmp_path, "train", "experiment=dress_full", *FAST, stage, "curriculum.run=[eval,export]")
    assert done.returncode == 1 and "adapter=true: expected model=hf" in done.stderr
    assert not (tmp_path / "logs").exists()
