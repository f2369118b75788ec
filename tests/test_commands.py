"""The command `dress`: its commands, asking in the terminal, and what is answered to names of other tools."""

from __future__ import annotations

import io
import re
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, composed, png
from llm_server import Behaviour, serving
from scripts import run_script
from test_command_line import FAST, environment

import dress
from dress import config
from dress.base.terminal import visible
from dress.config.foreign import FOREIGN
from dress.run.asking import ask
from dress.run.composing import CommandLineError, arguments

CONSOLE = "import sys\nfrom dress.run.commands import main\nsys.exit(main())\n"
"""What an installation writes into `bin/dress`."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    (folder / "bin").mkdir()
    (folder / "bin" / "dress").write_text(CONSOLE)
    (folder / "picture.png").write_bytes(png())
    return folder


def typed(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return run_script(home / "bin" / "dress", *words, cwd=home, env=environment())


@pytest.fixture(scope="module")
def run(home: Path) -> Path:
    """A run that `dress train` has made."""
    done = typed(home, "train", "experiment=sft_only", *FAST)
    assert done.returncode == 0, done.stderr
    return home / "logs" / "latest"


def test_the_command_is_what_the_package_installs() -> None:
    assert '[project.scripts]\ndress = "dress.run.commands:main"\n' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 0, "dress train "),
        (["--help"], 0, "dress ask "),
        (["trian"], 2, "dress trian: no such command. Did you mean train? There are: train, collect, eval,"),
        (["train", "experimnt=x"], 2, "experimnt: no such setting. Did you mean experiment?\n"),
        (["train", "--lr", "1e-4"], 2, "lr: no such setting; each stage has its own, curriculum.stages.NAME.lr\n"),
        (["train", "experiment", "sft_only"], 2, "experiment: expected key=value, experiment=sft_only\n"),
        (["eval", "ckpt=nowhere"], 1, "ckpt=nowhere: expected a run folder"),
        (["ask", "logs/latest"], 1, "ask: expected a run or a server's address, a picture"),
        (["ask", "x", "nothing.png"], 1, "nothing.png: expected a picture, found no such file"),
        (["ask", "x", "-", "stge=sft"], 1, "stge: no such setting. Did you mean stage?\n"),
    ],
)  # fmt: skip
def test_commands_and_what_is_mistyped(home: Path, words: list[str], code: int, said: str) -> None:
    done = typed(home, *words)
    assert done.returncode == code, done.stderr
    assert said in (done.stderr if code else done.stdout) and "Traceback" not in done.stderr
    assert not code or done.stderr.count("\n") == 1


def test_every_command_has_its_script() -> None:
    from dress.run.commands import COMMANDS, PLAIN

    assert sorted([*COMMANDS, *PLAIN]) == sorted(file.stem for file in (ROOT / "src").glob("*.py"))


def test_asking_takes_advice_line_by_line(
    run: Path, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    drawn = ["temperature=1", "max_new_tokens=6", "seed=3", "stage=sft", "condition=none"]
    monkeypatch.setattr("sys.stdin", io.StringIO("You forgot the dog.\n\nnever read\n"))
    ask(["logs/latest", "picture.png", "What is here?", *drawn])
    model, settings = dress.load(run), {"temperature": 1.0, "max_new_tokens": 6, "seed": 3}
    answer = model.answer("picture.png", "What is here?", "none", **settings)
    better = model.improve(answer, "You forgot the dog.", "none", **settings)
    expected = visible("".join(f"{one.text or '(an empty answer)'}\n" for one in (answer, better)))
    assert capsys.readouterr().out == expected
    monkeypatch.setattr("sys.stdin", io.StringIO("What is here?\nYou forgot the dog."))
    ask(["logs/latest", "picture.png", *drawn])
    assert capsys.readouterr().out == expected, "the question comes from standard input too"
    with pytest.raises(ValueError, match=r"condition: expected one of none, praise, got 'prais'"):
        ask(["logs/latest", "picture.png", "What?", "condition=prais"])


def test_a_server_is_asked_in_the_terminal(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with serving(Behaviour(always="[/b] \x1b[31mA red square.")) as url:
        ask([url, str(home / "picture.png"), "What is here?", "model=loopback"])
    assert capsys.readouterr().out == "[/b] \u241b[31mA red square.\n"


@pytest.mark.parametrize(
    ("setting", "answer"),
    [
        ("trainer.max_epochs", "curriculum.stages.<stage>.epochs"),
        ("max_steps", "curriculum.stages.NAME.steps"),
        ("epochs", "curriculum.stages.NAME.epochs"),
        ("trainer.max_steps", "curriculum.stages.<stage>.steps"),
        ("num_train_epochs", "curriculum.stages.NAME.epochs"),
        ("batch_size", "no such setting; records per optimiser step are curriculum.stages.NAME.records_per_step"),
        ("data.batch_size", "curriculum.stages.NAME.records_per_step"),
        ("per_device_train_batch_size", "curriculum.stages.NAME.records_per_step"),
        ("learning_rate", "curriculum.stages.NAME.lr"),
        ("lr", "curriculum.stages.NAME.lr"),
        ("optimizer.lr", "curriculum.stages.<stage>.lr"),
        ("ckpt_path", "resume=RUN_FOLDER"),
        ("output_dir", "run_dir=FOLDER"),
        ("model_name_or_path", "model.language.name"),
        ("fast_dev_run", "debug=fast_dev_run"),
        ("trainer.fast_dev_run", "debug=fast_dev_run"),
        ("+logger.tags", "logger=wandb logger.wandb.tags="),
    ],
)
def test_names_of_other_tools_are_answered_with_ours(setting: str, answer: str) -> None:
    value = "[a]" if "tags" in setting else "3"
    with pytest.raises(ValueError, match=re.escape(answer)) as error:
        dress.train([f"{setting}={value}"])
    assert setting.lstrip("+").rpartition(".")[2] in str(error.value)


def test_answers_name_settings_that_there_are() -> None:
    stages = {f"curriculum.stages.NAME.{name}" for name in config.TrainStage.model_fields}
    known = {*config.valid_keys(), *stages, *(f"model.language.lora.{n}" for n in config.Lora.model_fields)}
    for answer in FOREIGN.values():
        for key in re.findall(r"[a-z_]+(?:\.[a-zA-Z_]+)+", answer):
            assert key in known or key.endswith("._target_") or key.startswith("logger.wandb."), key


@pytest.mark.parametrize(
    ("text", "meaning"),
    [("logger=null", "logger=[]"), ("callbacks=null", "callbacks=none"), ("debug=false", "debug=none")],
)
def test_null_of_a_group_is_the_option_that_says_none(text: str, meaning: str) -> None:
    assert arguments([text]) == [meaning]
    assert composed(text) == composed(meaning)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("debug=true", "debug=true: expected one of fast_dev_run, none, overfit"),
        ("optimizer=null", "optimizer=null: expected one of adafactor, adamw, sgd"),
        ("--config-name=x", "--config-name: .* choose experiment=NAME"),
        ("--seed=3", "--seed: settings are key=value, without dashes: seed=3"),
    ],
)
def test_options_and_choices_that_there_are_not(text: str, message: str) -> None:
    with pytest.raises(CommandLineError, match=message):
        arguments([text])
