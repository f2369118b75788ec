"""A stage's amount in epochs: which layer says it, how many steps it comes to, and runs that take it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from conftest import composed
from test_command_line import FAST, train

import dress
from dress import config
from dress.base.files import read_json
from dress.base.run_folder import DONE
from dress.config.consent import checked_run
from dress.evaluation.run_facts import run_facts
from dress.train.amounts import in_steps
from dress.train.run_data import RunData
from dress.train.tasks import Tasks

SFT, DRESS = "curriculum.stages.sft", "curriculum.stages.dress"
MINE = """# @package _global_
defaults: [dress_full]
name: mine
curriculum: {{stages: {{sft: {{{sft}}}}}}}
"""


def amounts(settings: config.Config, name: str = "sft") -> tuple[int | None, float | None]:
    stage = settings.curriculum.stages[name]
    assert isinstance(stage, config.TrainStage)
    return stage.steps, stage.epochs


def opened(settings: config.Config, folder: Path) -> dict[str, int]:
    """The steps of the train stages that run, as the data have them."""
    curriculum = in_steps(settings, RunData(settings.data, folder))[0].curriculum
    return {name: curriculum.stages[name].total_steps for name in curriculum.train_stages()}  # type: ignore[union-attr]


# --- which layer says it --------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder whose experiment `mine` gives epochs above the steps of the scale."""
    (tmp_path / "configs" / "experiment").mkdir(parents=True)
    (tmp_path / "configs" / "experiment" / "mine.yaml").write_text(MINE.format(sft="epochs: 2"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["experiment=dress_full", f"{SFT}.epochs=0.5"], (None, 0.5)),
        (["experiment=mine"], (None, 2.0)),
        (["experiment=mine", "debug=fast_dev_run"], (2, None)),
        (["experiment=mine", "debug=fast_dev_run", f"{SFT}.epochs=3"], (None, 3.0)),
        (["experiment=mine", f"{SFT}.steps=7"], (7, None)),
        (["experiment=mine", f"{SFT}={{steps: 7, lr: 0.1}}"], (7, None)),
        (["experiment=mine", f"{SFT}.epochs=null", f"{SFT}.steps=7"], (7, None)),
    ],
)
def test_the_highest_layer_says_how_much(home: Path, typed: list[str], expected: tuple[object, object]) -> None:
    assert amounts(composed(*typed)) == expected


def test_an_amount_of_its_own_stands_above_that_of_the_stage_that_is_like_it() -> None:
    settings = composed(
        "+curriculum.stages.b={like: dress, epochs: 2}", "+curriculum.stages.c={like: b, steps: 3}",
        "+curriculum.stages.d={like: b, lr: 0.1}", "curriculum.run=[b,c,d]",
    )  # fmt: skip
    assert [amounts(settings, name) for name in "bcd"] == [(None, 2.0), (3, None), (None, 2.0)]


def test_both_in_one_layer_are_refused_with_the_layer(home: Path) -> None:
    with pytest.raises(ValueError, match=rf"{SFT}\.steps=3 and {SFT}\.epochs=2: expected one of .*\(command line\)"):
        composed(f"{SFT}.epochs=2", f"{SFT}.steps=3")
    (home / "configs" / "experiment" / "mine.yaml").write_text(MINE.format(sft="epochs: 2, steps: 5"))
    with pytest.raises(ValueError, match=r"got both \(configs/experiment/mine\.yaml\)"):
        composed("experiment=mine")
    assert amounts(composed("experiment=mine", f"{SFT}.steps=4")) == (4, None)


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        (f"{SFT}.epochs=0", f"{SFT}.epochs: Input should be greater than 0"),
        (f"{SFT}.epochs=-1", f"{SFT}.epochs: Input should be greater than 0"),
        (f"{SFT}.epochs=nan", f"{SFT}.epochs: Input should be a finite number"),
        (f"{SFT}.epoch=2", f"no such setting. Did you mean {SFT}.epochs?"),
        (f"{SFT}.steps=null", f"{SFT}: expected an amount, steps or epochs; found neither"),
        ("curriculum.stages.collect.epochs=2", "only a train stage has epochs; set curriculum.stages.collect.records"),
        ("trainer.max_epochs=2", "a stage has its own; set curriculum.stages.<stage>.epochs, or .steps"),
    ],
)
def test_what_is_no_number_of_epochs_is_answered(typed: str, answer: str) -> None:
    with pytest.raises(config.ConfigError) as error:
        composed(typed)
    assert answer in str(error.value)


# --- how many steps -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epochs", "size", "steps"),
    [("2", 4, 15), ("0.5", 4, 4), ("0.1", 3, 1), ("0.7", 3, 7), ("0.001", 4, 1), ("1", 1000, 1), ("3", 30, 3)],
)
def test_all_records_as_often_as_the_epochs_say(shapes_folder: Path, epochs: str, size: int, steps: int) -> None:
    settings = composed(f"{SFT}.epochs={epochs}", f"{SFT}.records_per_step={size}", "curriculum.run=[sft]")
    assert opened(settings, shapes_folder)["sft"] == steps


def test_collected_records_are_those_that_are_asked_about(shapes_folder: Path) -> None:
    one = [f"{DRESS}.epochs=1", f"{DRESS}.records_per_step=1"]
    assert opened(composed(*one, "curriculum.stages.collect.records=12"), shapes_folder)["dress"] == 12
    assert opened(composed(*one, "curriculum.stages.collect.records=99"), shapes_folder)["dress"] == 30
    mixture = [*one, "curriculum.stages.collect.records=12", f"{DRESS}.data={{collect: 1.0, sft: 3.0}}"]
    assert opened(composed(*mixture), shapes_folder)["dress"] == 42


def test_data_that_are_mixed_and_stages_that_are_left_out(shapes_folder: Path) -> None:
    typed = [
        "experiment=given_feedback", "data.feedback={a: {path: align}, b: {path: sft, weight: 2.0}}",
        "curriculum.without=[align,sft]", f"{DRESS}.epochs=1", f"{DRESS}.records_per_step=6", f"{SFT}.epochs=2",
    ]  # fmt: skip
    assert opened(composed(*typed), shapes_folder) == {"dress": 10}
    five = ", ".join(f"{name}: {{path: sft}}" for name in "abcde")
    exact = [f"data.feedback={{{five}}}", f"{DRESS}.epochs=0.34", f"{DRESS}.records_per_step=1"]
    assert opened(composed(*typed, *exact), shapes_folder) == {
        "dress": 51
    }  # 150 * 0.34 is 51.000000000000007 in binary


def test_more_steps_than_a_stage_may_have_are_refused(shapes_folder: Path) -> None:
    settings = composed(f"{SFT}.epochs=1e9")
    with pytest.raises(ValueError, match=rf"{SFT}\.epochs=1e\+09: expected at most 1,000,000,000 steps"):
        opened(settings, shapes_folder)


def test_what_is_made_in_as_many_steps_is_the_same(shapes_folder: Path) -> None:
    def prints(*typed: str) -> list[str]:
        settings = composed(f"{SFT}.records_per_step=4", *typed)
        data = RunData(settings.data, shapes_folder)
        tasks = Tasks(in_steps(settings, data)[0], data, "initial")
        return [output.fingerprint for output in tasks.outputs.values()]

    assert prints(f"{SFT}.epochs=2") == prints(f"{SFT}.steps=15") != prints(f"{SFT}.epochs=1")


# --- runs -----------------------------------------------------------------------------------------


def test_a_run_in_epochs_and_one_that_goes_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    few = [*FAST, "curriculum.run=[dress]", "curriculum.without=[align]", "run_dir=run"]
    done = train(tmp_path, *few, f"{SFT}.epochs=1.5", f"{DRESS}.epochs=1")
    assert done.returncode == 0, done.stderr
    assert "stage sft: 1.5 epochs = 9 steps" in done.stdout and "stage dress: 1 epoch = 2 steps" in done.stdout
    stages = checked_run(Path("run/config.json")).curriculum.stages
    assert [(stages[name].steps, stages[name].epochs) for name in ("sft", "dress")] == [(9, 1.5), (2, 1.0)]  # type: ignore[union-attr]
    with Path("run/csv/sft/metrics.csv").open() as file:
        epochs = [float(row["epoch"]) for row in csv.DictReader(file) if row["epoch"]]
    assert epochs == [(step + 1) / 6 for step in range(9)]
    assert "1.5 epochs = 9 steps of 4" in str(run_facts(Path("run"))["amounts"])

    before, marker = Path("run/config.json").read_text(), Path("run/stages/dress", DONE)
    made = read_json(marker)["fingerprint"]
    marker.unlink()
    capsys.readouterr()
    dress.train(["resume=run"])
    assert "stage dress: 1 epoch = 2 steps" in capsys.readouterr().out
    assert Path("run/config.json").read_text() == before and read_json(marker)["fingerprint"] == made


def test_the_settings_say_where_steps_come_from(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dress.train(["show=config", "experiment=mine"])
    out = capsys.readouterr().out
    lines = [line.split("#")[0].strip() for line in out.splitlines() if "as its epochs and records have it" in line]
    assert lines == ["steps: null"]
    (home / "configs" / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{out}")
    assert amounts(composed("experiment=mine")) == (None, 2.0)
