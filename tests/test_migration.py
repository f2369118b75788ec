"""Old settings are named, and runs of DRESS 0.1 are read as they were trained."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import ROOT, composed, small_model
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
    for section in ("data", "phases", "generation", "eval", "seed", "name"):
        assert getattr(settings, section) == getattr(today, section), section
    assert migrate(settings.model_dump(), OLD) == settings.model_dump()


def test_a_run_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", json.loads(OLD.read_text()) | {"version": 99})
    with pytest.raises(config.ConfigError, match=r"config\.json: version: expected 2, or none"):
        checked_run(tmp_path / "config.json", [])


def test_an_old_model_answers_as_it_was_trained(tmp_path: Path, tokenizer) -> None:
    model = small_model(tokenizer)
    settings = read_run_settings(tmp_path)
    save_model(model, settings.model, tmp_path / "sft", {"stage": "sft", "stages": ["sft"], "conditions": {"none": ""}})
    file = tmp_path / "sft" / "model.json"
    facts = read_json(file)
    facts["model"] = small_settings(model, tokenizer) | {"projector": {"kind": "linear"}}
    del facts["model"]["kind"]
    write_json(file, facts)
    loaded, _ = load_model(tmp_path / "sft")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))


def read_run_settings(folder: Path) -> config.Config:
    """The settings of an old run in a folder."""
    shutil.copy(OLD, folder / "config.json")
    return read_run(folder, config.Consent())


def small_settings(model, tokenizer) -> dict:
    """How `small_model` is made."""
    fields = model.language.config.to_dict()
    names = (
        "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "max_position_embeddings", "tie_word_embeddings",
    )  # fmt: skip
    return config.Model(
        vision=config.Vision(vit=config.ViT(image_size=48, patch_size=16, width=32, layers=2, heads=2)),
        language=config.Language(config={name: fields[name] for name in names}),
    ).model_dump()


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
