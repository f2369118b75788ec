"""Old settings are named, and runs of DRESS 0.1 are read as they were trained."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import ROOT, composed, small_model, small_settings
from test_command_line import train

from dress import config
from dress.base.files import read_json, write_json
from dress.config.consent import checked_run, read_run
from dress.config.migration import migrate, renamed
from dress.model.checkpoint import load_model, save_model

OLD = ROOT / "tests" / "data" / "config-0.1.json"
"""The config.json of a run that DRESS 0.1 made: `experiment=dress_full`."""


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("training.clip", "trainer.gradient_clip_val"),
        ("training.devices", "trainer.devices"),
        ("training.strategy", "parallel.strategy"),
        ("training.log_every", "trainer.log_every_n_steps"),
        ("logger.project", "logger.wandb.project"),
        ("budget.sft.steps", "curriculum.stages.sft.steps"),
    ],
)
def test_an_old_setting_is_answered_with_the_new_one(key: str, name: str) -> None:
    assert renamed(key) == f"{key} is now {name}"
    assert renamed(name) is None


def test_an_old_setting_in_a_file_is_answered_too() -> None:
    with pytest.raises(config.ConfigError, match=r"training\.clip is now trainer\.gradient_clip_val"):
        composed("+training.clip=1")
    with pytest.raises(config.ConfigError, match=r"model\.projector.*_target_"):
        composed("model.projector.kind=mlp")


def test_an_old_run_is_read_under_the_new_names() -> None:
    old = json.loads(OLD.read_text())
    old["training"] |= {"clip": 0.5, "strategy": "ddp_spawn", "threads": 3}
    old["logger"] |= {"wandb": True, "project": "mine"}
    old["model"]["projector"] = {"kind": "mlp"}
    settings = config.check(migrate(old, OLD))
    assert settings.trainer.gradient_clip_val == 0.5 and settings.trainer.precision == "32-true"
    assert (settings.parallel.strategy, settings.training.threads) == ("ddp", 3)
    assert set(settings.logger) == {"csv", "wandb"} and settings.logger["wandb"]["project"] == "mine"
    assert settings.model.projector == {"_target_": "dress.model.projector.MLP"}
    assert settings.learning.optimizer == config.Learning().optimizer
    today = composed()
    assert settings.data.validation is None, "as it was trained"
    assert settings.data.features is False, "from images"
    assert settings.data.model_copy(update={"validation": "auto", "features": "auto"}) == today.data
    for section in ("phases", "generation", "eval", "seed", "name"):
        assert getattr(settings, section) == getattr(today, section), section
    assert migrate(settings.model_dump(), OLD) == settings.model_dump()


def test_a_run_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", json.loads(OLD.read_text()) | {"version": 99})
    with pytest.raises(config.ConfigError, match=r"config\.json: version: expected 2, or none"):
        checked_run(tmp_path / "config.json", [])


def test_an_old_model_is_the_one_that_was_trained(tmp_path: Path, tokenizer) -> None:
    model = small_model(tokenizer)
    facts = {"stage": "sft", "stages": ["sft"], "conditions": {"none": ""}, "config": json.loads(OLD.read_text())}
    save_model(model, small_settings(), tmp_path / "sft", facts)
    file = tmp_path / "sft" / "model.json"
    saved = read_json(file)
    saved["model"] |= {"projector": {"kind": "linear"}}
    del saved["model"]["kind"]
    write_json(file, saved)
    loaded, _ = load_model(tmp_path / "sft")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))


def test_an_old_run_is_read_by_the_commands(tmp_path: Path) -> None:
    shutil.copy(OLD, tmp_path / "config.json")
    settings = read_run(tmp_path, config.Consent())
    assert settings.curriculum.order == ["align", "sft", "collect", "dress", "eval"]
    assert settings.version == config.VERSION and settings.data.path == "data/shapes"


def test_an_old_run_is_shown_but_not_gone_on_with(tmp_path: Path) -> None:
    run = tmp_path / "old"
    run.mkdir()
    shutil.copy(OLD, run / "config.json")
    shown = train(tmp_path, "resume=old", "show=config")
    assert shown.returncode == 0 and "gradient_clip_val: 1.0" in shown.stdout, shown.stderr
    for setting in ("resume", "reuse"):
        done = train(tmp_path, f"{setting}=old")
        assert done.returncode == 1 and done.stderr.count("\n") == 1
        assert done.stderr.startswith(f"{setting}={run}: a run of DRESS 0.1 can be evaluated")
