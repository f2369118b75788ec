"""`_target_`: free in a user's own settings, of known packages only in what is read, and built as it says."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import composed, small_model
from pydantic import ValidationError
from test_command_line import FAST, train

from dress import config
from dress.config.consent import model_of, read_run
from dress.config.learning import DECIDED
from dress.config.targets import LOGGER, OPTIMIZER, SCHEDULER, build
from dress.train.module import DressModule
from dress.train.schedules import cosine_with_warmup


def saved(folder: Path, **changes: object) -> Path:
    """The config.json of a run, changed."""
    plain = composed().model_dump() | changes
    file = folder / "config.json"
    file.write_text(json.dumps(plain))
    return file


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["trainer.gradient_clip_vall=1"], r"Trainer takes no such argument\. Did you mean gradient_clip_val\?"),
        (["optimizer.beta=1"], r"optimizer\.beta: torch\.optim\.AdamW takes no such argument\. Did you mean betas\?"),
        (["optimizer.lr=1"], r"optimizer\.lr: DRESS passes it; set curriculum\.stages\.<stage>\.lr"),
        (["optimizer._target_=torch.optim.AdamX"], r"torch\.optim has no 'AdamX'\. Did you mean Adam"),
        (["optimizer._target_=torch.nn.Linear"], r"expected a torch\.optim\.Optimizer, got torch\.nn\.Linear"),
        (["optimizer._target_=nowhere.Thing"], r"optimizer\._target_: no module 'nowhere'"),
        (["scheduler._target_=os.system"], r"scheduler\._target_: expected a torch\.optim\.lr_scheduler"),
        (["scheduler._target_=torch.optim.lr_scheduler.StepLR"], r"StepLR needs step_size"),
        (["model.projector._target_=os.system"], r"model\.projector\._target_: expected a torch\.nn\.Module"),
        (["callbacks.mine._target_=torch.nn.Linear"], r"callbacks\.mine\._target_: expected a lightning"),
        (["logger.csv.folder=x"], r"logger\.csv\.folder: .*CSVLogger takes no such argument"),
        (["logger=wandb", "logger.wandb.projct=x"], r"logger\.wandb\.projct: .* Did you mean project\?"),
        (["logger=wandb", "logger.wandb.id=x"], r"logger\.wandb\.id: DRESS passes it"),
        (["annotator.concurrency=3"], r"annotator\.concurrency: a setting of another kind"),
        (["callbacks.mine.x=1"], r"callbacks\.mine: expected _target_: package\.module\.Class"),
        (["optimizer={_target_: torch.optim.SGD, x: {_target_: os.system}}"], r"expected plain arguments"),
    ],
)  # fmt: skip
def test_what_does_not_fit_a_class_is_refused_before_anything_loads(typed: list[str], message: str) -> None:
    with pytest.raises(config.ConfigError, match=message):
        composed(*typed)


@pytest.mark.parametrize("name", sorted(DECIDED))
def test_what_dress_decides_of_lightnings_trainer_names_the_setting_to_use(name: str) -> None:
    with pytest.raises(config.ConfigError, match=rf"{name}: DRESS decides this argument.*: \w+"):
        composed(f"trainer.{name}=1")


def test_every_decided_argument_is_lightnings() -> None:
    import inspect

    import lightning

    assert set(DECIDED) | set(config.Trainer.model_fields) <= set(inspect.signature(lightning.Trainer).parameters)


def test_single_is_refused_for_several_processes() -> None:
    with pytest.raises(config.ConfigError, match=r"parallel\.strategy: expected auto, ddp or shard for 2 processes"):
        composed("parallel.strategy=single", "trainer.devices=2")


def test_arguments_without_a_target_change_the_default_and_a_target_stands_alone() -> None:
    default = config.Learning().optimizer
    assert composed("optimizer.eps=1e-6").optimizer == default | {"eps": 1e-6}
    sgd = {"_target_": "torch.optim.SGD", "momentum": 0.5}
    assert composed("optimizer={_target_: torch.optim.SGD, momentum: 0.5}").optimizer == sgd
    assert composed("optimizer=sgd", "optimizer.momentum=0.5").optimizer == sgd
    assert composed("optimizer.fused=null").optimizer == {k: v for k, v in default.items() if k != "fused"} | {}


def rates(spec: dict, steps: int, warmup: int) -> list[float]:
    optimizer = build(config.Learning().optimizer, "optimizer", OPTIMIZER, [torch.nn.Parameter(torch.ones(2))], lr=1.0)
    schedule = build(spec, "scheduler", SCHEDULER, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    seen = []
    for _ in range(steps):
        seen.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return seen


def test_schedules_of_transformers_and_torch_are_built_for_the_stage() -> None:
    linear = rates({"_target_": "transformers.get_linear_schedule_with_warmup"}, 10, 2)
    assert linear[0] == 0 and linear[2] == 1 and linear[-1] == pytest.approx(1 / 8)
    step = rates({"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 5, "gamma": 0.5}, 10, 2)
    assert (step[0], step[-1]) == (1, 0.5)


def test_the_default_schedule_warms_up_from_above_zero_where_transformers_begins_at_zero() -> None:
    ours = rates(config.Learning().scheduler, 20, 4)
    theirs = rates({"_target_": "transformers.get_cosine_with_min_lr_schedule_with_warmup", "min_lr_rate": 0.02}, 20, 4)
    assert ours[:4] == [0.25, 0.5, 0.75, 1.0] and theirs[0] == 0
    assert ours[4:] == pytest.approx(theirs[4:], rel=1e-12)
    assert len(cosine_with_warmup.__doc__ or "") > 0


def test_a_stage_trains_with_the_optimizer_that_is_named(tokenizer) -> None:
    stage = composed().curriculum.stages["sft"]
    learning = composed("optimizer=sgd", "scheduler=constant").learning
    made = DressModule(small_model(tokenizer), stage, learning).configure_optimizers()
    assert type(made["optimizer"]) is torch.optim.SGD
    assert made["optimizer"].param_groups[0]["weight_decay"] == stage.weight_decay
    assert made["optimizer"].param_groups[0]["momentum"] == 0.9


# --- what is read ---------------------------------------------------------------------------------

EVIL = {
    "os.system": "may name only classes of dress",
    "subprocess.Popen": "may name only classes of dress",
    "evil_package.Thing": r"say trust_targets=\[evil_package\]",
    "torch.os.system": "no module .torch.os",
    "dress.base.files.Path": "which is no class of dress",
}


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("place", ["optimizer", "callbacks", "logger", "projector"])
def test_an_edited_run_builds_nothing_of_unknown_packages(tmp_path, monkeypatch, place: str, name: str) -> None:
    (tmp_path / "evil_package.py").write_text("open('ran', 'w').close()\nclass Thing: pass\n")
    monkeypatch.chdir(tmp_path)
    spec: dict = {"_target_": name}
    change = {"projector": {"model": composed().model.model_dump() | {"projector": spec}}, "optimizer": {place: spec}}
    file = saved(tmp_path, **change.get(place, {place: {"x": spec}}))
    with pytest.raises(ValueError, match=EVIL[name]):
        read_run(tmp_path, config.Consent())
    with pytest.raises(ValueError, match=EVIL[name]):
        model_of({"model": composed().model.model_dump() | {"projector": spec}}, file, config.Consent())
    assert not (tmp_path / "ran").exists(), "its module was imported"


def test_a_function_of_a_known_package_is_no_projector(tmp_path: Path) -> None:
    facts = {"model": composed().model.model_dump() | {"projector": {"_target_": "torch.hub.load"}}}
    with pytest.raises(ValueError, match=r"model\.projector\._target_: expected a torch\.nn\.Module"):
        model_of(facts, tmp_path / "model.json", config.Consent())


MINE = """
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger


class Deep(torch.nn.Sequential):
    def __init__(self, width_in, width_out, hidden=8):
        super().__init__(torch.nn.Linear(width_in, hidden), torch.nn.Linear(hidden, width_out))
"""


def test_a_package_that_the_user_allows_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "allowed_package.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    facts = {"model": composed().model.model_dump() | {"projector": {"_target_": "allowed_package.Deep"}}}
    with pytest.raises(ValueError, match=r"trust_targets=\[allowed_package\]"):
        model_of(facts, tmp_path / "model.json", config.Consent())
    settings = model_of(facts, tmp_path / "model.json", config.Consent(trust_targets=["allowed_package"]))
    assert settings.projector["_target_"] == "allowed_package.Deep"


@pytest.mark.slow
def test_a_resumed_run_is_read_with_the_consent_of_this_call_only(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    run = tmp_path / "run"
    done = train(tmp_path, *FAST, "experiment=sft_only", "model.projector._target_=mine.Deep", f"run_dir={run}")
    assert done.returncode == 0, done.stderr
    plain = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(plain | {"trust_targets": ["mine"]}))
    refused = train(tmp_path, f"resume={run}")
    assert refused.returncode == 1 and "say trust_targets=[mine]" in refused.stderr
    shutil.rmtree(run / "stages" / "eval")
    (run / "metrics.json").unlink()
    again = train(tmp_path, f"resume={run}", "trust_targets=[mine]")
    assert again.returncode == 0 and (run / "metrics.json").exists(), again.stderr


def test_what_the_run_folder_offers_is_passed_where_it_is_taken(tmp_path: Path) -> None:
    spec = {"_target_": "lightning.pytorch.loggers.CSVLogger", "prefix": "x"}
    logger = build(spec, "logger.mine", LOGGER, save_dir=str(tmp_path), name="mine", version="sft")
    assert Path(logger.log_dir) == tmp_path / "mine" / "sft"
    named = build(spec | {"name": "other"}, "logger.mine", LOGGER, save_dir=str(tmp_path), name="mine", version="sft")
    assert Path(named.log_dir) == tmp_path / "other" / "sft"


def test_a_module_where_a_package_is_trusted_is_named() -> None:
    with pytest.raises(ValidationError, match=r"expected the package, mine, got a module of it, mine\.parts"):
        config.Consent(trust_targets=["mine.parts"])
