"""A phase defined outside the package: named by a setting, trained, logged, and never run from a run's own files."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT, composed, tiny_settings
from test_command_line import FAST, train

from dress import config
from dress.config.consent import checked_run
from dress.dialogue.spans import Span, SupervisedDialogue
from dress.phases import PHASES, Phase, check_phases, phase, supervised
from dress.phases.conditions import headline
from dress.record import Record

DOCUMENTED = re.search(
    r"# my_pkg/my_phases\.py\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(encoding="utf-8"), re.S
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A working directory with the documented package in it."""
    assert DOCUMENTED
    (tmp_path / "my_pkg").mkdir()
    (tmp_path / "my_pkg" / "my_phases.py").write_text(DOCUMENTED[1])
    return tmp_path


@pytest.mark.slow
def test_a_phase_of_ones_own_is_trained_and_logged_also_in_worker_processes(home: Path) -> None:
    typed = re.search(r"^python src/train\.py (phases\.modules.*)$", (ROOT / "docs" / "extending.md").read_text(), re.M)
    assert typed
    workers = ["data.workers=1", "data.start_method=spawn", "curriculum.run=[sft]"]
    done = train(home, *FAST, *typed[1].split(), *workers)
    assert done.returncode == 0, done.stderr
    (run,) = (home / "logs" / "dress_full").iterdir()
    history = json.loads((run / "stages" / "sft" / "history.json").read_text())
    assert history[-1]["short_answers/loss"] > 0 and history[-1]["sft/loss"] > 0
    assert history[-1]["short_answers/supervised_tokens"] < history[-1]["sft/supervised_tokens"]
    # what the run's files name is code: reading them runs nothing of it
    assert json.loads((run / "config.json").read_text())["phases"]["modules"] == ["my_pkg.my_phases"]
    assert checked_run(run / "config.json").phases.modules == []


def test_a_module_that_is_not_there_and_a_phase_that_it_lacks_are_named(home: Path) -> None:
    for typed, expected in [
        ("phases.modules=[my_pkg.my_phase]", "phases.modules: no module 'my_pkg.my_phase' for my_pkg.my_phase"),
        ("phases.modules=[my_pkg.my_phases]", "no such phase 'short_answer'. There are: align, critique, "),
    ]:
        done = train(home, typed, "+curriculum.stages.sft.phases.short_answer=1")
        assert done.returncode and expected in done.stderr and "Traceback" not in done.stderr
    assert "Did you mean short_answers?" in done.stderr


def test_a_module_that_no_stage_needs_is_imported_too() -> None:
    with pytest.raises(config.ConfigError, match=r"phases\.modules: no module 'no_such' for no_such\.thing"):
        composed("phases.modules=[no_such.thing]")


@pytest.mark.parametrize(
    ("gives", "message"),
    [
        ([("user", "a")], r"phase mine: expected SupervisedDialogue of Span, got \('user', 'a'\)"),
        ([SupervisedDialogue("mine", (("user", "a"),))], "expected SupervisedDialogue of Span"),
        ([SupervisedDialogue("mine", (Span("human", "a"),))], "expected a span's role to be one of .*, got 'human'"),
    ],
)
def test_what_a_phase_gives_is_checked(gives, message, monkeypatch, phases: config.Phases) -> None:
    monkeypatch.setitem(PHASES, "mine", Phase(lambda record, settings: gives))
    with pytest.raises(ValueError, match=message):
        supervised(Record(key="one"), {"mine": 1.0}, phases)


def test_two_phases_cannot_have_one_name() -> None:
    with pytest.raises(ValueError, match=r"phase 'sft': expected a new name, got that of dress\.phases\.sft\.sft"):
        phase("sft")(lambda record, settings: [])
    assert PHASES["sft"].function.__module__ == "dress.phases.sft"


@pytest.mark.parametrize(("feedback", "condition"), [(True, "praise"), (False, "none")])
def test_a_model_is_meant_to_be_asked_under_praise_once_a_phase_has_read_feedback(
    feedback: bool, condition: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PHASES, "mine", replace(PHASES["sft"], feedback=feedback))
    settings = tiny_settings(tmp_path, "+curriculum.stages.sft.phases.mine=1")
    assert headline(settings.curriculum)["sft"] == condition


def test_a_config_names_stage_and_phase(phases: config.Phases, tmp_path: Path) -> None:
    stages = tiny_settings(tmp_path).curriculum.stages
    wrong = stages["sft"].model_copy(update={"phases": {"sff": 1.0}})
    with pytest.raises(config.ConfigError, match=r"curriculum\.stages\.sft\.phases: no such phase 'sff'.*sft\?"):
        check_phases({**stages, "sft": wrong}, phases)
