"""Every shipped configuration composes and validates, and who wins over whom."""

import re
import shutil
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from conftest import ROOT, composed
from hydra import initialize_config_dir

from dress import config
from dress.config.defaults import defaults
from dress.run.composing import compose
from dress.run.layers import leaves

OTHERS = ("annotator", "judge", "logger", "debug", "trainer", "optimizer", "scheduler", "callbacks", "hparams_search")


def options(group: str) -> list[str]:
    return sorted(file.stem for file in (ROOT / "configs" / group).glob("*.yaml"))


@pytest.mark.parametrize("data", options("data"))
@pytest.mark.parametrize("scale", options("scale"))
def test_every_experiment_fits_every_scale_and_data(scale: str, data: str) -> None:
    for experiment in options("experiment"):
        place = ["data.path=somewhere"] if data == "shards" else []
        settings = composed(f"experiment={experiment}", f"scale={scale}", f"data={data}", *place)
        assert (settings.name, settings.scale) == (experiment, scale)


@pytest.mark.parametrize(
    "choice",
    [
        f"{g}={o}"
        for g in ("annotator", "judge", "logger", "debug", "trainer", "optimizer", "scheduler", "callbacks")
        for o in options(g)
    ],
)
def test_every_other_option_composes(choice: str) -> None:
    needed = {"llm": ["model=x"], "replay": ["ledger=x"], "human": ["journal=x"]}
    group, _, option = choice.partition("=")
    composed(choice, *(f"{group}.{text}" for text in needed.get(option, ())))


def test_names_in_files_are_their_files() -> None:
    for group, key in (("experiment", "name"), ("scale", "scale")):
        for option in options(group):
            text = yaml.safe_load((ROOT / "configs" / group / f"{option}.yaml").read_text())
            assert text[key] == option


def test_scale_changes_no_phase_loss_or_order() -> None:
    """But how a new projector first meets its language model, as which parts learn, belongs to the model."""
    for option in options("scale"):
        text = yaml.safe_load((ROOT / "configs" / "scale" / f"{option}.yaml").read_text())
        assert not {"phases", "name", "eval"} & text.keys() and text["curriculum"].keys() == {"stages"}
        for stage in text["curriculum"]["stages"].values():
            amounts = {"steps", "records_per_step", "lr", "trainable", "records", "turns", "samples"}
            assert stage.keys() - {"objective"} <= amounts | {"temperature", "top_p"}
        assert [n for n, one in text["curriculum"]["stages"].items() if "objective" in one] in ([], ["align"])


def test_every_setting_is_composed_and_needs_no_plus() -> None:
    """Also those that stand in no file, and those of sections whose keys depend on what is chosen."""
    files = compose("train", ["run_dir=unused"])
    assert set(config.Config.model_fields) == set(files)
    for section in ("trainer", "parallel", "training", "data", "eval", "phases", "generation"):
        model = config.Config.model_fields[section].annotation
        assert isinstance(model, type) and issubclass(model, config.Section)
        assert set(model.model_fields) <= set(files[section]), section
    typed = composed(
        "curriculum.stages.sft.warmup=0.2", "annotator=llm", "annotator.model=x", "annotator.max_tokens=9",
        "model.fused=false", "trainer.profiler=simple", "optimizer.eps=1e-6", "scheduler.min_lr_rate=0.1",
        "logger.csv.flush_logs_every_n_steps=7", "data.validation=x",
    )  # fmt: skip
    assert typed.curriculum.stages["sft"].warmup == 0.2 and typed.annotator.max_tokens == 9
    assert typed.trainer.more() == {"profiler": "simple"} and not typed.model.fused
    assert typed.optimizer == config.Learning().optimizer | {"eps": 1e-6}


def test_no_default_stands_twice() -> None:
    """A file that says what the schema says would be a second place to change."""
    base = dict(leaves(defaults(config.Config)))
    files = ["train.yaml", *(f"{g}/{f}.yaml" for g in ("scale", "trainer", "data", "debug") for f in options(g))]
    for file in files:
        said = yaml.safe_load((ROOT / "configs" / file).read_text()) or {}
        prefix = {"trainer": "trainer.", "data": "data."}.get(file.partition("/")[0], "")
        for key, value in leaves(said):
            assert value == "???" or base.get(prefix + key, config) != value, f"{file}: {key}"


def test_no_link_among_the_configs() -> None:
    assert not [path for path in (ROOT / "configs").rglob("*") if path.is_symlink()]


def test_raters_follow_the_data_only_where_none_is_chosen() -> None:
    assert composed().judge.kind == "oracle"
    shards = composed("data=shards", "data.path=x")
    assert (shards.annotator.kind, shards.judge.kind) == ("rules", "rules")
    assert composed("data=shards", "data.path=x", "judge=none").judge.kind == "none"


def test_a_model_replaces_the_scales_whole_while_the_amounts_stay() -> None:
    small, other = composed("scale=small"), composed("scale=tiny", "model=composed_small")
    assert other.model == small.model and other.model != composed().model
    assert (other.curriculum, other.generation) == (composed().curriculum, composed().generation)


def layered(tmp_path: Path, layers: dict[str, float], *overrides: str) -> Any:
    """`trainer.gradient_clip_val` where a copy of the configs sets it in the named layers."""
    folder = tmp_path / "configs"
    shutil.copytree(ROOT / "configs", folder, dirs_exist_ok=True)
    (folder / "local").mkdir(exist_ok=True)
    files = {
        "base": folder / "train.yaml", "scale": folder / "scale" / "tiny.yaml",
        "experiment": folder / "experiment" / "dress_full.yaml",
        "local": folder / "local" / "default.yaml", "debug": folder / "debug" / "none.yaml",
    }  # fmt: skip
    for layer, value in layers.items():
        text = files[layer].read_text() if layer not in ("local", "debug") else ""
        plain = yaml.safe_load(text) or {}
        plain.setdefault("trainer", {})["gradient_clip_val"] = value
        files[layer].write_text("# @package _global_\n" + yaml.safe_dump(plain))
    with initialize_config_dir(str(folder), version_base="1.3"):
        return hydra.compose("train", overrides=list(overrides)).trainer.gradient_clip_val


def test_precedence(tmp_path: Path) -> None:
    """base < scale < experiment < local < debug < command line."""
    layers: dict[str, float] = {}
    for value, layer in enumerate(("base", "scale", "experiment", "local", "debug"), start=2):
        layers[layer] = float(value)
        assert layered(tmp_path / layer, layers) == value, layer
    assert layered(tmp_path / "command", layers, "trainer.gradient_clip_val=9") == 9


def test_precedence_is_written_beside_the_defaults_list() -> None:
    head = (ROOT / "configs" / "train.yaml").read_text().split("\nname:")[0]
    assert re.search(r"base.*< scale.*< experiment < local < debug < command line", head)


def test_local_settings_stay_out_of_git() -> None:
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert "/configs/local/*" in ignored and "!/configs/local/.gitkeep" in ignored


def test_debug_run_is_small_in_every_stage() -> None:
    settings = composed("debug=fast_dev_run")
    assert settings.data.sizes is not None and settings.data.sizes.align <= 50
    for stage in settings.curriculum.stages.values():
        if isinstance(stage, config.TrainStage):
            assert stage.steps <= 2
        else:
            assert stage.records is not None and stage.records <= 12


@pytest.mark.parametrize("experiment", options("experiment"))
def test_an_experiment_runs_what_its_file_says_it_evaluates(experiment: str) -> None:
    text = yaml.safe_load((ROOT / "configs" / "experiment" / f"{experiment}.yaml").read_text())
    curriculum = composed(f"experiment={experiment}").curriculum
    named = text["curriculum"]["stages"]["eval"]["models"]
    assert set(named.values()) <= set(curriculum.order) and curriculum.order[-1] == "eval"
    assert list(named)[-1] == curriculum.train_stages()[-1]


@pytest.mark.parametrize(
    "given", ["{phases: {rating: 1.0}}", "{data: {sft: 1.0, align: 3.0}}", "{trainable: [projector]}"]
)
def test_what_a_file_gives_for_a_mapping_replaces_the_default(tmp_path: Path, given: str) -> None:
    folder = tmp_path / "configs"
    shutil.copytree(ROOT / "configs", folder)
    (folder / "local").mkdir(exist_ok=True)
    (folder / "local" / "default.yaml").write_text(
        f"# @package _global_\ncurriculum: {{stages: {{sft: {given}}}, run: [sft]}}\n"
    )
    plain = compose("train", ["run_dir=x"], folder)
    ((key, value),) = yaml.safe_load(given).items()
    assert config.check(plain).curriculum.stages["sft"].model_dump()[key] == value


def test_overfit_is_a_setting_of_training() -> None:
    assert composed("debug=overfit").training.overfit


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("+typo=1", "typo: no such setting"),
        ("+training.threds=1", "Did you mean training.threads?"),
        ("curriculum.stages.collect.sample=2", "Did you mean curriculum.stages.collect.samples?"),
        ("seed=-1", "seed: Input should be greater than or equal to 0 (got -1)"),
        ("name='a b'", "name: String should match pattern"),
        ("curriculum.run=[align,sfd]", "got 'sfd'. Did you mean sft?"),
    ],
)
def test_what_does_not_fit_is_named(override: str, told: str) -> None:
    with pytest.raises(config.ConfigError) as caught:
        composed(override)
    assert told in str(caught.value)


def test_a_key_in_the_place_of_its_name_is_refused_and_not_repeated() -> None:
    with pytest.raises(config.ConfigError) as caught:
        composed("logger=wandb", "logger.wandb.api_key_env=0123456789abcdef0123456789abcdef01234567")
    assert "NAME of an environment variable" in str(caught.value)
    assert "0123456789abcdef" not in str(caught.value)
