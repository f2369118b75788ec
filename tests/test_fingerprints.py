"""Every setting changes the fingerprint of what it has a part in, or stands in the table of those that do not."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from conftest import ROOT, composed, small_model

from dress import config
from dress.config.no_result import BY_CONTENT, NO_RESULT
from dress.data.shards import write_shards
from dress.model.checkpoint import save_model
from dress.train import tasks
from dress.train.amounts import in_steps
from dress.train.run_data import RunData
from dress.train.tasks import EvalTask, InitialModel, Tasks, TrainTask, fingerprint
from dress.worlds.shapes import generate as shapes

PLACES = {"data.path", "data.world", "data.world_seed", "data.sizes"}
"""Where the records are; `test_other_records_are_another_stage` has what is there."""
NAMES = re.compile(r"curriculum\.stages\.\w+\.(data|models)")
"""Mappings of names to weights, and of labels to names."""

OTHER: dict[str, Any] = {
    "name": "other", "scale": "other", "run_dir": "other", "show": "config", "resume": "other", "reuse": "other",
    "model.vision.name": {"model.vision.name": "ViT-B-32", "model.vision.vit": None}, "model.vision.weights": "openai",
    "model.vision.folder": {"model.vision.folder": "dinov2", "model.vision.vit": None},
    "model.vision.timm": {"model.vision.timm": "vit_tiny_patch16_224", "model.vision.vit": None},
    "model.vision.image_size": {
        "model.vision.image_size": 64, "model.vision.name": "ViT-B-32", "model.vision.vit": None,
    }, "model.projector_weights": "projector.safetensors",
    "model.vision.vit.width": 256, "model.vision.vit.heads": 2, "model.projector._target_": "dress.model.projector.MLP",
    "model.vision.resize": "crop", "stage": "dress",
    "model.language.name": {"model.language.name": "gpt2", "model.language.config": None},
    "model.language.config.model_type": "mistral",
    "model.language.lora": {"model.language.lora": {"rank": 2, "alpha": 4, "targets": ["q_proj"]}},
    "model.language.chat": "vicuna", "model.language.revision": "main", "model.attention": "dense",
    "data.align": "sft", "data.sft": "align", "data.prompts": "sft", "data.eval": "sft",
    "data.validation": "sft", "data.start_method": "spawn", "data.verify": "full", "data.reader": "webdataset",
    "data.cache_dir": "other", "data.images": "exact", "data.dialogues_per_record": 1, "data.on_damage": "skip",
    "data.features": {"data.features": True, **{
        f"curriculum.stages.{name}.trainable": ["projector"] for name in ("align", "sft", "dress")
    }},
    **{f"curriculum.stages.{name}.objective": {
        f"curriculum.stages.{name}.objective": "words", f"curriculum.stages.{name}.trainable": ["projector"],
    } for name in ("align", "sft", "dress")},
    "phases.align.prompt": "Say it.", "phases.modules": ["mine"], "phases.critique.condition": "both",
    "phases.refinement.loss": "all",
    "objectives.dpo.pairs": "extremes", "objectives.distill.divergence": "forward", "objectives.distill.top_k": 5,
    "objectives.kto.min_rating": 2,
    "phases.preference.turns": "first", "phases.preference.condition": "praise", "phases.distill.under": "praise",
    "phases.distill.refinement_template": "Do: {refinement}", "phases.distill.reference_template": "So: {reference}",
    "phases.self_correction.prompt": "Again.", "phases.language_feedback.critic_prompt": "How is it?",
    "phases.language_feedback.template": "Said: {critique}",
    "phases.refinement.target": "reference", "phases.refinement.min_rating": 3,
    "phases.refinement.anchor_conditions": ["praise"], "phases.praise": "Good.",
    "phases.critique_template": "Said: {critique}", "phases.rating_template": "Number: {rating}",
    "data.feedback": {"data.feedback": "sft", "curriculum.stages.dress.data": {"feedback": 1.0}},
    "curriculum.stages.align.data": {"sft": 1.0}, "curriculum.stages.sft.data": {"align": 1.0},
    "curriculum.stages.dress.data": {"sft": 1.0}, "curriculum.stages.collect.data": "sft",
    "curriculum.stages.eval.data": "sft", "curriculum.stages.sft.weights": None,
    "curriculum.stages.dress.weights": "align",
    "curriculum.stages.collect.model": "align", "curriculum.stages.eval.models": {"a": "sft"},
    "curriculum.run": ["collect"], "curriculum.without": ["align"],
    "curriculum.stages.collect.top_p": 0.5, "curriculum.stages.collect.condition": "praise",
    "annotator.kind": "rules", "judge.kind": "rules", "generation.keep_cache": "off",
    "generation.server.url": "http://other/v1", "generation.server.command": "serve {model} {port}",
    "generation.server.model": "other", "generation.server.health": "/ready",
    "generation.server.api_key_env": "OTHER", "generation.server.requests_per_minute": 3,
    "generation.server.tokens_per_minute": 3, "generation.server.ledger": "other.sqlite",
    "generation.server.budget": {"generation.server.budget": 5.0, "generation.server.price_in": 1.0},
    "generation.engine": {"generation.engine": "server", "generation.server.url": "http://other/v1"},
    "eval.conditions": ["none"], "eval.refine_condition": "praise",
    "trainer.accelerator": "cpu", "parallel.strategy": "ddp", "parallel.gather": "step", "trainer.devices": 2,
    "trainer.precision": "bf16-mixed",
    "training.threads": 1, "training.idle": "pass", "training.checkpointing": "on", "training.warmup": 0.5,
    "optimizer._target_": "torch.optim.NAdam", "optimizer.betas": [0.5, 0.9],
    "scheduler._target_": "transformers.get_cosine_schedule_with_warmup",
    "callbacks": {"timer": {"_target_": "lightning.pytorch.callbacks.Timer"}},
    "logger.csv._target_": "lightning.pytorch.loggers.TensorBoardLogger", "trust_targets": ["other"],
    "curriculum.stages.eval.records": 3,
    "annotator.model": "other", "annotator.base_url": "http://other/v1",
    "annotator.api_key_env": "OTHER", "annotator.structured": "text", "annotator.requests_per_minute": 3,
    "annotator.tokens_per_minute": 3, "annotator.ledger": "other.sqlite",
    "annotator.budget": {"annotator.budget": 5.0, "annotator.price_in": 1.0},
}  # fmt: skip
"""Another valid value of settings that are no plain number or switch."""

CONCERNED = {"generation": "collect", "eval": "eval", "annotator": "collect", "judge": "eval"}
"""Section to the first stage whose result it may change; the first of all where it is not named."""


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value and not NAMES.fullmatch(f"{prefix}{name}"):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def other(path: str, value: Any) -> dict[str, Any]:
    """Settings to change, so that `path` has another value."""
    if path in OTHER:
        changed = OTHER[path]
        return changed if isinstance(changed, dict) and any("." in key for key in changed) else {path: changed}
    if path == "objectives.distill.teacher":
        return {path: "current" if value == "average" else "average"}
    if path.endswith(".trainable"):
        return {path: [*value[1:]]}
    if path.endswith(".epochs"):  # instead of steps
        return {path: 2.0, f"{path.removesuffix('epochs')}steps": None}
    if isinstance(value, bool):
        return {path: not value}
    if isinstance(value, int | float):
        return {path: value + 1 if isinstance(value, int) else value / 2 + 0.125}
    pytest.fail(f"{path}: a new setting. What is another value of it, and does it change a result?")


def changed(settings: config.Config, path: str, value: Any) -> config.Config:
    plain = settings.model_dump()
    for key, new in other(path, value).items():
        section = plain
        *above, name = key.split(".")
        for step in above:
            section = section[step]
        assert section[name] != new, key
        section[name] = new
    return config.Config.model_validate(plain)


def prints(settings: config.Config, read: RunData) -> dict[str, str]:
    """The fingerprint of every stage, and of every model's cells."""
    initial = fingerprint(InitialModel(settings.model, "tokenizer", None, settings.seed))
    data = RunData(settings.data, read.root)
    tasks = Tasks(in_steps(settings, data)[0], data, initial)
    cells = {
        f"cell {label}": fingerprint(task.of(label))
        for task in tasks.by_name.values()
        if isinstance(task, EvalTask)
        for label in task.models
    }
    return {name: output.fingerprint for name, output in tasks.outputs.items()} | cells


def of_no_account(path: str) -> bool:
    section, _, name = path.rpartition(".")
    top = path.partition(".")[0]
    if top in NO_RESULT[""] or section == "generation.server":
        return True
    return name in NO_RESULT.get("rater" if section in ("annotator", "judge") else section, ())


def check(settings: config.Config, read: RunData, path: str, value: Any) -> None:
    before, after = prints(settings, read), prints(changed(settings, path, value), read)
    if of_no_account(path):
        assert after == before, f"{path} may not change a result"
        return
    top, *rest = path.split(".")
    concerned = CONCERNED.get(top)
    if path.startswith("curriculum.stages."):
        concerned = rest[1]
    if concerned is None:
        assert after != before, f"{path} is in no fingerprint"
        return
    assert after[concerned] != before[concerned], f"{path} is not in the fingerprint of {concerned}"
    order = settings.curriculum.order
    for name in order[: order.index(concerned)]:
        assert after.get(name, before[name]) == before[name], f"{path} changes {name}, which it has no part in"
    if concerned in ("eval", "collect") and path != "curriculum.stages.eval.models":
        assert after["cell dress"] != before["cell dress"], f"{path} is not in the fingerprint of cells"


def test_every_setting_counts_or_is_named_as_of_no_account(shapes_folder: Path) -> None:
    settings = composed()
    read, walked = RunData(settings.data, shapes_folder), {"objectives"}  # see the next test
    for path, value in leaves(settings.model_dump()):
        if any(path.startswith(f"{section}.") for section in OF_EXPERIMENTS):
            continue
        if path.endswith(".kind") and path.startswith("curriculum"):
            continue  # what the section is
        if path in ("curriculum.stages.align.weights", "version", "model.kind"):
            walked.add(path.partition(".")[0])
            continue  # by content, see below; the two others have one value
        if any(path == place or path.startswith(f"{place}.") for place in PLACES):
            continue
        check(settings, read, path, value)
        walked.add(path.partition(".")[0])
    assert walked == set(config.Config.model_fields)


OF_EXPERIMENTS = {
    "phases.preference": "dpo_only", "objectives.dpo": "dpo_only", "objectives.kto": "kto_only",
    "objectives.reward_weighted": "reward_weighted_only", "phases.distill": "distill_only",
    "objectives.distill": "distill_only", "phases.self_correction": "self_correction_only",
    "objectives.self_correction": "self_correction_only", "phases.language_feedback": "llf",
}  # fmt: skip
"""Settings that only some phases and objectives read, and an experiment that has them."""


@pytest.mark.parametrize("section", OF_EXPERIMENTS)
def test_settings_of_an_objective_count_where_it_is_used(shapes_folder: Path, section: str) -> None:
    used, unused = composed(f"experiment={OF_EXPERIMENTS[section]}"), composed()
    read = RunData(used.data, shapes_folder)
    paths = [(path, value) for path, value in leaves(used.model_dump()) if path.startswith(f"{section}.")]
    assert paths
    elsewhere = dict(leaves(unused.model_dump()))
    for path, value in paths:
        before, after = (prints(one, read) for one in (used, changed(used, path, value)))
        assert after["dress"] != before["dress"] and after["sft"] == before["sft"], path
        assert prints(changed(unused, path, elsewhere[path]), read) == prints(unused, read), path


def test_fingerprints_are_those_of_the_version_before(shapes_folder: Path) -> None:
    """A finished stage of DRESS 0.2 is taken over: what it did not know is left out where it changes nothing."""
    settings = composed()
    task = Tasks(settings, RunData(settings.data, shapes_folder), "initial").by_name["dress"]
    assert isinstance(task, TrainTask)
    known = {"align", "critique", "refinement", "critique_template", "rating_template", "praise", "modules"}
    content = tasks._content(task.phases)
    assert content.keys() == known and content["critique"].keys() == {"condition", "history"}
    assert not task.objectives and content["refinement"]["anchor"] == settings.phases.refinement.anchor


@pytest.mark.parametrize("kind", ["llm", "replay"])
def test_every_setting_of_a_rater(shapes_folder: Path, kind: str) -> None:
    settings = composed(f"annotator={kind}", *{
        "llm": ["annotator.model=m", "annotator.api_key_env=null"], "replay": ["annotator.ledger=a.sqlite"]
    }[kind])  # fmt: skip
    read = RunData(settings.data, shapes_folder)
    for path, value in leaves({"annotator": settings.annotator.model_dump()}):
        if path.endswith((".kind", ".rubric")):
            continue  # another kind has other settings; a rubric counts by its content, see below
        if kind == "replay" and path == "annotator.ledger":
            after = composed("annotator=replay", "annotator.ledger=b.sqlite")
            assert prints(after, read) != prints(settings, read)
            continue
        check(settings, read, path, value)


def test_a_rubric_counts_by_what_it_says(shapes_folder: Path, tmp_path: Path) -> None:
    text = (ROOT / "configs" / "rubrics" / "feedback.yaml").read_text()
    found = []
    for name, rubric in (("same", text), ("other", text.replace("rating", "mark", 1))):
        (tmp_path / f"{name}.yaml").write_text(rubric)
        llm = ["annotator=llm", "annotator.model=m", f"annotator.rubric={tmp_path / name}.yaml"]
        settings = composed(*llm)
        found.append(prints(settings, RunData(settings.data, shapes_folder))["collect"])
    assert found[0] != found[1]


def test_other_records_are_another_stage(shapes_folder: Path, tmp_path: Path) -> None:
    for split in shapes.SPLITS:
        write_shards(tmp_path / split, shapes.samples(split, 30, seed=1), per_shard=10)
    settings = composed()
    here, there = (prints(settings, RunData(settings.data, folder)) for folder in (shapes_folder, tmp_path))
    assert all(here[name] != there[name] for name in here)
    assert not PLACES - {f"data.{name}" for name in BY_CONTENT}


def test_loaded_weights_and_tokenizer_count() -> None:
    settings = composed()
    parts = (("a", None), ("b", None), ("a", "weights"))
    assert len({fingerprint(InitialModel(settings.model, *part, settings.seed)) for part in parts}) == 3


def test_weights_of_another_run_count_by_their_content(shapes_folder: Path, tmp_path: Path, tokenizer) -> None:
    found = []
    for name, scale in (("a", 1.0), ("same", 1.0), ("other", 2.0)):
        model = small_model(tokenizer)
        with torch.no_grad():
            next(model.parameters()).mul_(scale)
        save_model(model, config.ComposedModel.model_validate(composed().model.model_dump()), tmp_path / name, {})
        settings = composed(f"curriculum.stages.align.weights={tmp_path / name}")
        found.append(prints(settings, RunData(settings.data, shapes_folder)))
    assert found[0] == found[1] and not found[0].items() & found[2].items()
    missing = composed(f"curriculum.stages.align.weights={tmp_path}:sft")
    with pytest.raises(FileNotFoundError, match=r"curriculum\.stages\.align\.weights=.*:sft: .*expected model\.json"):
        prints(missing, RunData(missing.data, shapes_folder))


def test_an_experiment_that_names_more_keeps_what_the_others_made(shapes_folder: Path) -> None:
    one, two = (
        prints(settings, RunData(settings.data, shapes_folder))
        for settings in (composed(), composed("experiment=rounds_dress"))
    )
    assert two.keys() - one.keys() == {"collect2", "dress2", "cell dress2"}
    assert {name for name in one if one[name] != two[name]} == {"eval"}


def test_the_table_names_settings_that_exist() -> None:
    for section, names in NO_RESULT.items():
        if section == "rater":
            continue
        model = config.Config if not section else config.Config.model_fields[section].annotation
        assert isinstance(model, type) and issubclass(model, config.Section)
        known = set(model.model_fields)
        if section == "trainer":  # further arguments of Lightning's are passed on
            known |= set(inspect.signature(L.Trainer.__init__).parameters)
        assert names <= known, section
