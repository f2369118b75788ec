"""A search by Optuna, and what any sweep ends with: real processes, killed and begun again."""

from __future__ import annotations

import csv
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from conftest import ROOT
from documented import commands, run_all
from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from pages import values
from test_command_line import FAST, environment, train

from dress.base.errors import ConfigError
from dress.base.files import read_json
from dress.config.search import check_search
from dress.data.shards import write_shards
from dress.report.parallel import ParallelAxis, ParallelLine, parallel_coordinates
from dress.report.picture import svg
from dress.run import search as searching
from dress.run.objective import check_objective
from dress.run.overrides import CommandLineError, replacing, several_runs
from dress.run.resuming import begin_or_go_on
from dress.run.search import JOURNAL, _without_half_a_line
from dress.run.space import Dimension, Space, parse_space
from dress.worlds.shapes import generate as shapes

PAGE = "docs/sweeps.md"
OBJECTIVE = "final/sft/interaction/mean_rating/turn_0"
LR = "curriculum.stages.sft.lr"
SEARCH = [
    "-m", "hydra/sweeper=dress", "experiment=sft_only", *FAST, f"hydra.sweeper.objective={OBJECTIVE}",
    "hydra.sweeper.trials=3", "hydra.sweeper.startup_trials=1", f"{LR}=tag(log, interval(1e-4, 1e-2))", "sweep=S",
    "callbacks.trouble._target_=trouble.Trouble",
]  # fmt: skip
SETTINGS = {
    "objective": OBJECTIVE, "direction": "maximize", "trials": 1, "parallel": 1, "sampler": "tpe", "startup_trials": 1,
    "failures": 0, "seed": 0, "params": {},
}  # fmt: skip
"""Of a search."""
TROUBLE = """
import os, signal
from pathlib import Path
from lightning import Callback

class Trouble(Callback):
    def on_train_start(self, trainer, module):
        with Path("begun").open("a") as file:
            file.write(".")
        kind, number = Path("trouble").read_text().split() if Path("trouble").exists() else ("none", 0)
        if Path("begun").stat().st_size == int(number):
            if kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("this one had to fail")
"""
"""A callback that ends the process, or a stage, as the file `trouble` says: `kill 3`, in the third that trains."""


def home(folder: Path, trouble: str = "") -> Path:
    (folder / "trouble.py").write_text(TROUBLE)
    if trouble:
        (folder / "trouble").write_text(trouble)
    return folder


def trials(folder: Path) -> list[dict[str, Any]]:
    return read_json(folder / "S" / "search.json", dict)["trials"]


def states(folder: Path) -> list[str]:
    return [trial["state"] for trial in trials(folder)]


def params(folder: Path, state: str = "complete") -> list[dict[str, Any]]:
    return [trial["params"] for trial in trials(folder) if trial["state"] == state]


def weights(run: Path, stage: str) -> int:
    return (run / "stages" / stage / "model.safetensors").stat().st_ino


# --- a search that is not disturbed ---------------------------------------------------------------


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where a search of three trials has ended; what it said lies in `out.txt`."""
    cwd = home(tmp_path_factory.mktemp("searched"))
    done = train(cwd, *SEARCH)
    assert done.returncode == 0, done.stderr
    (cwd / "out.txt").write_text(done.stdout)
    return cwd


def test_each_trial_is_a_run_in_the_folder_of_its_number(searched: Path) -> None:
    assert states(searched) == ["complete"] * 3 and (searched / "S" / "multirun.yaml").exists()
    drawn = [trial["params"][LR] for trial in trials(searched)]
    assert len(set(drawn)) == 3 and all(1e-4 <= one <= 1e-2 for one in drawn)
    for trial in trials(searched):
        run = searched / "S" / str(trial["number"])
        assert read_json(run / "config.json", dict)["curriculum"]["stages"]["sft"]["lr"] == trial["params"][LR]
        figures = read_json(run / "metrics.json", dict)["sft"]
        assert trial["value"] == figures["interaction/mean_rating"][0]["value"]


def test_trials_take_equal_stages_over_from_each_other(searched: Path) -> None:
    said = (searched / "out.txt").read_text()
    assert said.count("stage align: taken over from S/0") == 2
    runs = [searched / "S" / str(number) for number in range(3)]
    assert len({weights(run, "align") for run in runs}) == 1 and len({weights(run, "sft") for run in runs}) == 3


def test_it_ends_with_a_table_a_page_and_a_picture(searched: Path) -> None:
    said = (searched / "out.txt").read_text()
    table = said[said.rindex("The best of 3 trials") :]
    assert re.search(r"^trial +lr +rating, turn\s0", table, flags=re.M), table
    assert all(re.search(rf"^{number} ", table, flags=re.M) for number in range(3))
    assert [line.split()[0] for line in table.splitlines()[-4:]] == ["runs:", "table:", "report:", "picture:"]
    rows = list(csv.DictReader((searched / "S" / "runs.csv").open()))
    assert [float(row[OBJECTIVE]) for row in rows] == [trial["value"] for trial in trials(searched)]
    assert [float(row[LR]) for row in rows] == [trial["params"][LR] for trial in trials(searched)]
    page = (searched / "S" / "sweep.html").read_text()
    assert "no run was chosen by" in page and 'class="wide"' in page and OBJECTIVE in page
    picture = (searched / "S" / "parallel.svg").read_text()
    assert picture.startswith("<svg") and "var(--" not in picture and ">lr<" in picture
    assert list(read_json(searched / "S" / "runs.json", dict)) == ["0", "1", "2"]


def test_the_same_command_again_trains_nothing_and_shows_the_table(searched: Path) -> None:
    done = train(searched, *SEARCH)
    assert done.returncode == 0, done.stderr
    assert "The best of 3 trials" in done.stdout and "stage" not in done.stdout and len(trials(searched)) == 3


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ("hydra.sweeper.objective=final/sft/image/gap", f"hydra.sweeper.objective: S holds .* {OBJECTIVE}"),
        (f"{LR}=interval(0, 1)", r"hydra.sweeper.params: S holds .*'tag\(log, interval"),
    ],
)  # fmt: skip
def test_another_search_in_the_same_folder_is_refused(searched: Path, other: str, told: str) -> None:
    key = other.partition("=")[0]
    done = train(searched, *(text for text in SEARCH if not text.startswith(f"{key}=")), other)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert re.search(told, done.stderr), done.stderr


# --- killed, failed -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_search_goes_on_and_draws_what_an_undisturbed_one_does(searched: Path, tmp_path: Path) -> None:
    cwd = home(tmp_path, "kill 3")  # align and sft of trial 0, sft of trial 1
    assert train(cwd, *SEARCH).returncode == -9
    assert states(cwd) == ["complete", "running"]
    done = train(cwd, *SEARCH)
    assert done.returncode == 0, done.stderr
    assert states(cwd) == ["complete", "stopped", "complete", "complete"]
    assert params(cwd) == params(searched)
    assert trials(cwd)[1]["params"] == trials(cwd)[2]["params"]
    assert "stage align: taken over from S/0" in done.stdout, "its finished stages are not lost"
    assert list(read_json(cwd / "S" / "runs.json", dict)) == ["0", "2", "3"]


@pytest.mark.slow
def test_a_failed_trial_is_a_result_and_too_many_end_the_search(tmp_path: Path) -> None:
    cwd = home(tmp_path, "fail 3")
    done = train(cwd, *SEARCH, "hydra.sweeper.trials=2", "hydra.sweeper.failures=0")
    assert done.returncode == 1 and "1 trials ended without a figure, and hydra.sweeper.failures=0 may" in done.stderr
    assert "this one had to fail" in done.stderr and states(cwd) == ["complete", "fail"]
    done = train(cwd, *SEARCH, "hydra.sweeper.trials=2")
    assert done.returncode == 0, done.stderr
    assert states(cwd) == ["complete", "fail", "complete"]
    assert re.search(r"^1 \(failed\) ", done.stdout, flags=re.M)
    assert "stroke-dasharray" in (cwd / "S" / "parallel.svg").read_text()
    assert [row["failed"] for row in csv.DictReader((cwd / "S" / "runs.csv").open())] == ["False", "True", "False"]


@pytest.mark.slow
def test_a_killed_grid_goes_on_and_ends_with_a_page_too(tmp_path: Path) -> None:
    cwd = home(tmp_path, "kill 3")
    grid = ["-m", "experiment=sft_only", *FAST, f"{LR}=1e-3,2e-3", "sweep=S", SEARCH[-1], "trust_targets=[trouble]"]
    assert train(cwd, *grid).returncode == -9
    done = train(cwd, *grid)
    assert done.returncode == 0, done.stderr
    assert "S/0 is finished" in done.stdout and (cwd / "begun").read_text() == "....", "sft of the second again"
    first, second = (cwd / "S" / str(number) for number in range(2))
    assert weights(first, "align") == weights(second, "align")
    assert list(read_json(cwd / "S" / "runs.json", dict)) == ["lr=0.001", "lr=0.002"]
    assert 'class="wide"' in (cwd / "S" / "sweep.html").read_text() and (cwd / "S" / "parallel.svg").exists()
    done = train(cwd, *(text.replace("1e-3,2e-3", "3e-3,2e-3") for text in grid))
    assert done.returncode == 1 and "S/0 holds a run with other settings" in done.stderr


def test_half_a_line_in_the_journal_is_taken_away(tmp_path: Path) -> None:
    file = tmp_path / JOURNAL

    def study() -> optuna.Study:
        backend = optuna.storages.journal.JournalFileBackend(str(file))
        return optuna.create_study(
            storage=optuna.storages.JournalStorage(backend), study_name="sweep", load_if_exists=True
        )

    study().tell(study().ask(), 1.0)
    with file.open("a") as out:
        out.write('{"op_code": 4, "wor')
    _without_half_a_line(file)
    study().tell(study().ask(), 2.0)
    assert [trial.value for trial in study().trials] == [1.0, 2.0]


# --- what is said before anything is made ---------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (f"hydra.sweeper.objective={OBJECTIVE.replace('rating', 'ratng')}", f"Did you mean {OBJECTIVE}?"),
        ("curriculum.stages.sft.warmup=7", "curriculum.stages.sft.warmup: Input should be less than"),
        ("run_dir=x", "sweep=S: expected no run_dir=x beside it"),
    ],
)
def test_what_cannot_be_searched_is_said_at_once(tmp_path: Path, typed: str, told: str) -> None:
    key = typed.partition("=")[0]
    done = train(home(tmp_path), *(text for text in SEARCH if not text.startswith(f"{key}=")), typed)
    assert done.returncode == 1 and told in done.stderr, done.stderr
    assert not (tmp_path / "S").exists() and not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    ("objective", "typed", "told"),
    [
        ("final/dress/helpfulness/accuracy", [], "There are: final/sft/helpfulness/accuracy, "),
        ("final/sft/interaction/mean_rating/turn_2", ["eval.turns=2"], f"Did you mean {OBJECTIVE[:-1]}"),
        (None, [], "expected a figure of the run, got none"),
        (OBJECTIVE, ["curriculum.run=[sft]"], "the run evaluates no model"),
        (OBJECTIVE, ["trainer.devices=2"], "trainer.devices=2 does not go with -m"),
        (OBJECTIVE, ["curriculum.stages.sft.epochs=0.5"], None),
        ("final/sft/reference/rouge_l/honesty", [], None),
    ],
)
def test_the_objective_is_a_figure_that_the_run_will_have(
    objective: str | None, typed: list[str], told: str | None
) -> None:
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        overrides = replacing(["experiment=sft_only", *typed])
        composed = compose("train", overrides=overrides, return_hydra_config=True)
        if told is None:
            check_objective(objective, composed, overrides)
            return
        with pytest.raises(ConfigError) as caught:
            check_objective(objective, composed, overrides)
    assert told in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"sampler": "grid"}, "hydra.sweeper.sampler: Input should be 'tpe', 'gp' or 'random'"),
        ({"trials": 0}, "hydra.sweeper.trials: Input should be greater than 0"),
        ({"trails": 3}, "hydra.sweeper.trails: no such setting. Did you mean hydra.sweeper.trials?"),
    ],
)
def test_a_setting_of_the_search_that_does_not_fit_is_named(setting: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_search(SETTINGS | setting)
    assert told in str(caught.value)


def test_the_search_that_is_shipped_says_what_it_would_run(tmp_path: Path) -> None:
    done = train(tmp_path, "hparams_search=optuna", "show=config", "sweep=S")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if re.search(r"^ +(lr|refinement): .*# command line$", line)]
    assert len(lines) == 2 and not (tmp_path / "S").exists()


def test_without_optuna_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'optuna is not installed; pip install -e ".\[sweep\]"'):
        searching.search(SETTINGS, None, [])  # type: ignore[arg-type]  # not asked


# --- parts ----------------------------------------------------------------------------------------


def space(params: dict[str, Any], *typed: str) -> Space:
    return parse_space(params, typed, ConfigLoader)  # type: ignore[arg-type]  # asked for groups only


def test_a_space_is_said_in_hydras_words() -> None:
    drawn = space(
        {
            "data.max_tokens": "range(64, 257, 64)", "seed": "interval(1, 4)", "data.workers": 3,
            "curriculum.stages.sft.lr": "tag(log, interval(1e-4, 1))", "trainer.gradient_clip_val": "choice(0.5, 1.0)",
            "curriculum.stages.sft.phases": "choice({sft: 1.0}, {rating: 1.0})",
        },
        "scale=small", "seed=3",
    )  # fmt: skip
    kinds = {name: one.described() for name, one in drawn.dimensions.items()}
    assert kinds == {
        "data.max_tokens": {"low": 64, "high": 256, "log": False},
        "curriculum.stages.sft.lr": {"low": 1e-4, "high": 1.0, "log": True},
        "trainer.gradient_clip_val": {"choices": ["0.5", "1.0"]},
        "curriculum.stages.sft.phases": {"choices": ["{sft:1.0}", "{rating:1.0}"]},
    }
    assert drawn.fixed == ["data.workers=3", "++curriculum.stages.sft.phases=null", "scale=small", "seed=3"]
    given = {name: {**one.described(), "low": 128}.get("choices", [128])[0] for name, one in drawn.dimensions.items()}
    job = drawn.overrides(given)
    assert "++trainer.gradient_clip_val=0.5" in job and "curriculum.stages.sft.phases={sft:1.0}" in job
    assert job.index("++curriculum.stages.sft.phases=null") < job.index("curriculum.stages.sft.phases={sft:1.0}")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tag(log, interval(0, 1))", "seed=tag"),
        ("tag(lgo, interval(1, 2))", "expected no tag but log, got lgo"),
        ("interval(2.0, 1.0)", "seed=interval"),
        ("choice(1, null)", "hydra.sweeper.params: Error parsing override 'seed=choice(1, null)'"),
    ],
)
def test_a_range_that_is_none_is_named(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        space({"seed": text})
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_a_draw_can_be_typed_as_it_is_written() -> None:
    (one,) = space({"optimizer.eps": "tag(log, interval(1e-9, 1e-8))"}).dimensions.values()
    assert isinstance(one, Dimension) and one.argument == "++optimizer.eps" and one.text.startswith("tag(log")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["-m", "seed=0,1"], "-m"), (["hparams_search=lr"], "hparams_search=lr"), (["hparams_search=none"], None),
        (["hydra.mode=MULTIRUN"], "hydra.mode=MULTIRUN"), (["seed=1"], None),
    ],
)  # fmt: skip
def test_several_runs_are_known_by_what_is_typed(typed: Sequence[str], expected: str | None) -> None:
    assert several_runs(typed) == expected


def test_a_sweep_has_one_folder(tmp_path: Path) -> None:
    assert begin_or_go_on(["hparams_search=lr", "sweep=a/b"]) == ["hparams_search=lr", 'hydra.sweep.dir="a/b"']
    for typed, told in (
        (["sweep=a"], "expected -m or hparams_search=NAME beside it"),
        (["-m", "sweep=a", "run=b"], "sweep=a: expected no run=b beside it"),
        (["hparams_search=optuna", "run=b"], "run=b: expected no hparams_search=optuna beside it"),
        (["-m", "sweep=a b"], "no spaces"),
    ):
        with pytest.raises(CommandLineError, match=told):
            begin_or_go_on(typed)
    done = train(tmp_path, "hparams_search=lr", "resume=logs/latest")
    assert done.returncode == 1 and "resume takes one run: start it without hparams_search=lr" in done.stderr


def test_a_failed_run_is_grey_and_dashed_and_the_best_is_wide() -> None:
    axes = [
        ParallelAxis("lr", log=True),
        ParallelAxis("kind", ("a", "b")),
        ParallelAxis("invents", up=False, share=True),
    ]
    lines = [
        ParallelLine("0", (1e-4, "a", 0.2)), ParallelLine("1", (1e-3, "b", 0.1)), ParallelLine("2", (1e-2, "a", None))
    ]  # fmt: skip
    chart = parallel_coordinates("Runs", axes, lines)
    points = values(chart.specification, "run", "axis", "place", "wide", "failed")
    assert [point[:3] for point in points if point[1] == "lr"] == [("2", "lr", 1.0), ("0", "lr", 0.0), ("1", "lr", 0.5)]
    assert {point[0]: point[3] for point in points} == {"2": 1.5, "0": 1.5, "1": 3.5}
    assert {point[0] for point in points if point[4]} == {"2"} and ("2", "invents ↓") not in {p[:2] for p in points}
    assert [row.cells[-1].text for row in chart.figures.rows] == ["10.0 %", "20.0 %", "–"]
    assert "stroke-dasharray=" in (picture := svg(chart)) and "10.0 %" in picture and "var(" not in picture


# --- launchers, and the page ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["submitit_local", "ray"])
def test_trials_run_side_by_side_after_the_first(tmp_path: Path, launcher: str) -> None:
    """As a reader starts it: without this code on Python's path."""
    env = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
    typed = [text for text in SEARCH if not text.startswith("callbacks")]
    command = [
        sys.executable,
        ROOT / "src" / "train.py",
        *typed,
        f"hydra/launcher={launcher}",
        "hydra.sweeper.parallel=2",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert states(tmp_path) == ["complete"] * 3 and "The best of 3 trials" in done.stdout
    runs = [tmp_path / "S" / str(number) for number in range(3)]
    assert len({weights(run, "align") for run in runs}) == 1, "made once"
    begun = [json.loads((run / "provenance.json").read_text())["time"] for run in runs]
    ended = (runs[0] / "metrics.json").stat().st_mtime
    assert all(run.stat().st_mtime >= ended for run in runs[1:]) and begun[0] < begun[1]


@pytest.mark.documented
@pytest.mark.slow  # many whole runs
def test_the_commands_of_the_page_run(tmp_path: Path) -> None:
    write_shards(tmp_path / "data" / "test", shapes.samples("eval", 6, seed=1), 6)
    typed = [[word.replace("trials=40", "trials=3") for word in command] for command in commands(PAGE)]
    for command in typed:
        if "hydra.sweeper.trials=3" not in command and {"hparams_search=optuna", "hydra/sweeper=dress"} & set(command):
            command.append("hydra.sweeper.trials=2")
    assert len(typed) == 6
    run_all(typed, tmp_path)
    sweeps = {page.parent.name for page in (tmp_path / "logs" / "sweeps").glob("*/sweep.html")}
    assert sweeps == {"first", "mine", "grid", "winner"}
    assert (tmp_path / "eval" / "winner" / "metrics.json").exists()


def test_the_launchers_commands_compose() -> None:
    (script,) = re.findall(r"^```bash\n(.*?)^```", (ROOT / PAGE).read_text(encoding="utf-8"), flags=re.M | re.DOTALL)
    lines = [shlex.split(line) for line in script.replace("\\\n", " ").splitlines() if line.startswith("python")]
    for _, _, *words in lines:
        with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
            hydra = compose("train", overrides=begin_or_go_on(words), return_hydra_config=True).hydra
        assert hydra.sweeper.parallel in (2, 8) and hydra.sweep.dir.startswith("logs/sweeps/")
        assert words[1].removeprefix("hydra/launcher=").partition("_")[0] in hydra.launcher._target_.lower()
    assert len(lines) == 4


def test_the_words_of_the_page_are_there() -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    options = (ROOT / "configs" / "hydra" / "sweeper" / "dress.yaml").read_text()
    for name in re.findall(r"^\| `hydra\.sweeper\.(\w+)` ", text, flags=re.M):
        assert re.search(rf"^{name}:", options, flags=re.M), name
