"""A run means what it says: whose answers stand in which column, rounds, what is taken over, what loggers get."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, composed, tiny_settings
from rich.console import Console
from test_command_line import FAST, train

from dress import config
from dress.base.files import read_json, write_json
from dress.config.consent import checked_run
from dress.data.shards import Shards
from dress.data.stream import open_split
from dress.evaluation.outcomes import Outcome, load_outcomes
from dress.evaluation.report import write_report
from dress.evaluation.suites.run import metrics
from dress.kernels.precision import precision_for
from dress.model.checkpoint import load_model
from dress.phases import supervised
from dress.rater import NoRater
from dress.record import Record
from dress.report.figures import cells, main_cells
from dress.rollout.checkpoint import CkptResponder
from dress.rollout.conversation import Opening, Rollout, converse
from dress.rollout.responder import Sampling
from dress.run.loggers import RunLoggers
from dress.run.overrides import replacing
from dress.train import curriculum, reuse
from dress.train.curriculum import Curriculum
from dress.train.run_data import RunData
from dress.train.tasks import Tasks, TrainTask

FEW = ["curriculum.stages.collect.records=12", "trainer.log_every_n_steps=1"]


def run(settings: config.Config) -> dict:
    return Curriculum(settings, Console(quiet=True), RunLoggers(settings)).run()


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two rounds; its data lie beside it."""
    tmp = tmp_path_factory.mktemp("rounds")
    run(tiny_settings(tmp, "experiment=rounds_dress", *FEW, "logger=[csv,tensorboard]"))
    return tmp / "run"


# --- rounds, given feedback -----------------------------------------------------------------------


def test_later_rounds_ask_new_questions_without_a_condition(rounds: Path) -> None:
    run(tiny_settings(rounds.parent, "experiment=dress_unconditional", *FEW, f"reuse={rounds}", run="unconditional"))
    stages, asked = rounds.parent / "unconditional" / "stages", {}
    for stage, model in (("collect", "sft"), ("collect2", "dress"), ("collect3", "dress2")):
        records = [record for record, _ in Shards(stages / stage / "shards")]
        asked[stage] = {record.key for record in records}
        turns = [turn for record in records for dialogue in record.dialogues for turn in dialogue.turns]
        assert {turn.provenance["responder"].partition("/")[2] for turn in turns} == {model}
    assert len(asked["collect2"]) == len(asked["collect3"]) == 12 and asked["collect2"].isdisjoint(asked["collect3"])
    learned = read_json(stages / "dress3" / "history.json")[-1]
    assert learned["critique/supervised_tokens"] > 0


def test_each_round_asks_and_reads_what_stands_before_it(rounds: Path) -> None:
    for stage, responder in (("collect", "rounds_dress/sft"), ("collect2", "rounds_dress/dress (praise)")):
        turns = [
            t for record, _ in Shards(rounds / "stages" / stage / "shards") for d in record.dialogues for t in d.turns
        ]
        assert turns and {turn.provenance["responder"] for turn in turns} == {responder}
    settings = tiny_settings(rounds.parent, "experiment=rounds_dress", *FEW)
    tasks = Tasks(settings, RunData(settings.data, next((rounds.parent / "data").iterdir())), "initial")
    for name, source, weights in (("dress", "collect", "sft"), ("dress2", "collect2", "dress")):
        task = tasks.by_name[name]
        assert isinstance(task, TrainTask) and task.records.source == rounds / "stages" / source / "shards"
        assert task.records.fingerprint == tasks.outputs[source].fingerprint
        assert task.weights.folder == rounds / "stages" / weights
    result = read_json(rounds / "metrics.json")
    assert list(result) == ["sft", "dress", "dress2", "conditions"]
    assert main_cells(result) == ["sft/none", "dress/praise", "dress2/praise"]
    assert {cell.partition("/")[0] for cell in cells(result)} == {"sft", "dress", "dress2"}
    page = (rounds / "report.html").read_text()
    assert "dress2/praise" in page and "stage collect2" in page


def answers(folder: Path, settings: config.Config, data: Path, condition: str) -> dict[str, str]:
    """First answers of a stage's model, from Python."""
    model, facts = load_model(folder)
    shards = open_split("eval", data, settings.data)
    samples = [shards[i] for i in range(len(shards))]
    asked = [(i, dialogue) for i, (record, _) in enumerate(samples) for dialogue in record.dialogues]
    rollout = Rollout(CkptResponder(model, "x"), NoRater(), Sampling(settings.generation.max_new_tokens, 64))
    dialogues = converse(rollout, samples, [Opening(*one, [facts["conditions"][condition]]) for one in asked])
    return {
        f"{samples[i][0].key}/{number}": dialogue.turns[0].assistant or ""
        for number, ((i, _), dialogue) in enumerate(zip(asked, dialogues, strict=True))
    }


def test_given_feedback_without_a_collect_stage_is_evaluated_as_what_it_is(rounds: Path) -> None:
    given = rounds / "stages" / "collect" / "shards"
    settings = tiny_settings(
        rounds.parent, "experiment=given_feedback", f"data.feedback={given}", f"reuse={rounds}",
        "curriculum.stages.dress.lr=0.05", *FEW, run="given",
    )  # fmt: skip
    result = run(settings)
    assert list(result) == ["sft", "dress", "conditions"]
    assert main_cells(result) == ["sft/none", "dress/praise"]
    assert set(result["conditions"]) == {f"{m}/{c}" for m in ("sft", "dress") for c in ("none", "praise")}
    stages = Path(settings.run_dir) / "stages"
    assert {folder.name for folder in stages.iterdir()} == {"align", "sft", "dress", "eval"}
    (data,) = (rounds.parent / "data").iterdir()
    for name, condition in (("sft", "none"), ("dress", "praise")):
        told = {o.item: o.answer for o in load_outcomes(stages / "eval" / f"{name}-{condition}.jsonl") if not o.turn}
        assert told == answers(stages / name, settings, data, condition), name
    assert os.path.samefile(stages / "sft" / "model.safetensors", rounds / "stages" / "sft" / "model.safetensors")


def test_a_run_begins_with_the_weights_of_another_and_learns_from_several_sources(rounds: Path) -> None:
    begun = ["curriculum.stages.sft.weights=" + f"{rounds}:dress", "curriculum.stages.sft.steps=2", *FEW]
    settings = tiny_settings(
        rounds.parent, "curriculum.run=[dress]", *begun, "+curriculum.stages.fresh={like: sft, weights: null}",
        "curriculum.stages.dress.weights=fresh", "curriculum.stages.dress.data={collect: 1.0, sft: 1.0}",
        "curriculum.stages.dress.phases={critique: 1.0, sft: 1.0}",
        "curriculum.stages.dress.steps=10", run="begun",
    )  # fmt: skip
    assert settings.curriculum.order == ["sft", "collect", "fresh", "dress"]
    run(settings)
    stages = Path(settings.run_dir) / "stages"
    other = tiny_settings(rounds.parent, *begun, "curriculum.run=[sft]", run="alone")
    run(other)
    sft, fresh = ((stages / name / "model.safetensors").read_bytes() for name in ("sft", "fresh"))
    assert sft == (Path(other.run_dir) / "stages" / "sft" / "model.safetensors").read_bytes()
    alone = tiny_settings(
        rounds.parent, "curriculum.run=[sft]", *begun[1:], "curriculum.stages.sft.weights=null", run="f"
    )
    run(alone)
    losses = [
        read_json(folder / "history.json", list)[0]["sft/loss"]
        for folder in (stages / "sft", stages / "fresh", Path(alone.run_dir) / "stages" / "sft")
    ]
    assert losses[0] < losses[1] and fresh != sft and losses[1] == pytest.approx(losses[2], rel=0.2)
    history = read_json(stages / "dress" / "history.json", list)
    assert {"critique/loss", "sft/loss"} <= {key for row in history for key in row}


def outcome(model: str, condition: str, rating: int) -> Outcome:
    return Outcome(model, condition, "a/0", "a", "", "question", 0, "u", "a", rating, None, None, {"correct": True})


def test_headlines_of_models_with_names_of_their_own(tmp_path: Path) -> None:
    outcomes = [
        outcome(m, c, r + (c == "praise")) for m, r in (("base", 1), ("mid", 2), ("end", 3)) for c in ("none", "praise")
    ]
    result = metrics(outcomes, {"base": "none", "mid": "praise", "end": "praise"})
    assert list(result) == ["base", "mid", "end", "conditions"]
    assert main_cells(result) == ["base/none", "mid/praise", "end/praise"]
    write_json(tmp_path / "metrics.json", result)
    page = write_report(tmp_path, [], config.Eval(), []).read_text()
    assert "is rated 4.00 of 4 on questions (base: 1.00)" in page.replace("\u00a0", " ")


# --- taking over ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting",
    ["generation.max_new_tokens=13", "training.overfit=true", "data.window=17", "data.reader=webdataset"],
)
def test_what_was_made_with_another_setting_is_not_taken_over(rounds: Path, setting: str, monkeypatch) -> None:
    settings = tiny_settings(
        rounds.parent, "experiment=rounds_dress", *FEW, f"reuse={rounds}", setting, run=setting.replace("=", "-")
    )
    made: list[str] = []
    monkeypatch.setattr(Curriculum, "_train", lambda self, name, task: made.append(name) or 1 / 0)
    monkeypatch.setattr(curriculum, "collect", lambda task, *more: made.append(task.name) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(settings)
    assert made == (["collect"] if setting.startswith("generation") else ["align"])


def test_a_copy_that_was_killed_is_not_taken_for_the_stage(rounds: Path, monkeypatch) -> None:
    settings = tiny_settings(
        rounds.parent, "curriculum.stages.eval.models=[sft]", *FEW, f"reuse={rounds}", run="killed"
    )
    folder, copied = Path(settings.run_dir) / "stages", []

    def killed(source: str, target: str) -> None:
        assert not (folder / "align" / "done.json").exists(), "marked before it was whole"
        if copied:
            raise KeyboardInterrupt
        copied.append(shutil.copy2(source, target))

    with monkeypatch.context() as patch:
        patch.setattr(reuse, "link", killed)
        with pytest.raises(KeyboardInterrupt):
            run(settings)
    assert copied and not (folder / "align" / "done.json").exists()
    run(settings)
    for name in ("align", "sft"):
        assert {file.name for file in (folder / name).iterdir()} == {
            file.name for file in (rounds / "stages" / name).iterdir()
        }
        assert read_json(folder / name / "done.json") == read_json(rounds / "stages" / name / "done.json")


def test_a_copy_across_file_systems_is_whole_or_not_there(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "a").write_text("all of it")

    def fails(*paths: object) -> None:
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", fails)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fails)
        with pytest.raises(OSError, match="another"):
            reuse.link(str(tmp_path / "a"), str(tmp_path / "b"))
    assert not (tmp_path / "b").exists()
    reuse.link(str(tmp_path / "a"), str(tmp_path / "b"))
    assert (tmp_path / "b").read_text() == "all of it"


# --- loggers --------------------------------------------------------------------------------------


def test_every_logger_gets_each_point_once(rounds: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = [row["curriculum/step"] for row in read_json(rounds / "stages" / "sft" / "history.json")]
    assert history == [5, 6, 7, 8]
    with (rounds / "csv" / "sft" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["curriculum/step"]) for row in rows] == history
    events = EventAccumulator(str(rounds / "tensorboard")).Reload()
    every = [p["curriculum/step"] for f in (rounds / "stages").glob("*/history.json") for p in read_json(f, list)]
    assert [point.step for point in events.Scalars("train/loss")] == sorted(every)


def test_points_come_as_often_as_log_every_says(rounds: Path) -> None:
    settings = tiny_settings(
        rounds.parent, "curriculum.run=[align]", "curriculum.stages.align.steps=9", "trainer.log_every_n_steps=4",
        "data.validation=sft", "trainer.val_check_interval=3", "logger=[csv,tensorboard]", run="rare",
    )  # fmt: skip
    run(settings)
    folder = Path(settings.run_dir)
    with (folder / "csv" / "align" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(r["curriculum/step"]) for r in rows if r["align/loss"]] == [4, 8, 9]
    assert [float(r["curriculum/step"]) for r in rows if r["val/align/loss"]] == [3, 6, 9]
    stored = read_json(folder / "stages" / "align" / "history.json")
    assert len(stored) == len(rows) == 5, "what is measured after the same step is one point"


def test_no_logger_is_none(tmp_path: Path) -> None:
    from dress.run.loggers import build_loggers

    assert build_loggers(composed("logger=[]", run_dir=tmp_path), "sft", False) == []
    kinds = [
        type(one).__name__ for one in build_loggers(composed("logger=[wandb,csv]", run_dir=tmp_path), "sft", False)
    ]
    assert kinds == ["WandbStage", "CSVLogger"], "in the order in which they are named"


def test_a_run_of_one_logger_is_still_read(tmp_path: Path) -> None:
    plain = json.loads((ROOT / "tests" / "data" / "config-0.1.json").read_text())
    plain["logger"] = {"kind": "wandb", "project": "p", "entity": None, "api_key_env": "WANDB_API_KEY"}
    (tmp_path / "config.json").write_text(json.dumps(plain))
    logger = checked_run(tmp_path / "config.json").logger
    assert list(logger) == ["wandb"] and logger["wandb"]["project"] == "p"


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val: Input should be greater than 0"),
        ("trainer.gradient_clip_val=0", "trainer.gradient_clip_val: Input should be greater than 0"),
        ("trainer.gradient_clip_val=nan", "trainer.gradient_clip_val: Input should be a finite number"),
        ("trainer.precision=16-mixed", r"trainer\.precision: fp16 .* \(got '16-mixed'\)"),
        (
            "generation.max_new_tokens=99999",
            "generation.max_new_tokens: expected less than the model's 4,096 positions",
        ),
        ("generation.max_new_tokens=1e30", "generation.max_new_tokens: Input should be less than"),
        ("data.allow_pipe='true'", "data.allow_pipe: Input should be a valid boolean"),
        ("data.allow_pipe=1", "data.allow_pipe: Input should be a valid boolean"),
        ("data.cache_gb=inf", "data.cache_gb: Input should be a finite number"),
        ("data.workers=true", "data.workers: Input should be a valid integer"),
        ("data.sft={a: {path: x, weight: -1}}", "weight: Input should be greater than 0"),
        ("data.sft={}", "sft"),
        ("seed=1e30", "seed: Input should be less than"),
        ("curriculum.stages.sft.lr=1e30", "curriculum.stages.sft.lr: Input should be less than"),
        ("+curriculum.stages.sft.weight_decay=-0.1", "greater than or equal to 0"),
        ("+curriculum.stages.sft.warmup=2", "less than or equal to 1"),
        ("curriculum.stages.collect.top_p=0", "greater than 0"),
        ("curriculum.stages.collect.temperature=inf", "finite"),
        ("model.vision.vit.heads=3", "expected a width that heads=3 divides, got width=128"),
        ("model.vision.vit.patch_size=50", "expected patches that fit into the image"),
        ("model.vision.vit.mlp_ratio=0", "greater than 0"),
        ("model.language.config.initializer_range=inf", "initializer_range: expected a finite number"),
        ("phases.refinement.anchor=nan", "finite"),
        ("eval.conditions=[]", "at least 1 item"),
    ],
)
def test_what_no_run_can_mean_is_refused_by_type(override: str, told: str) -> None:
    with pytest.raises(config.ConfigError, match=told):
        composed(override)


def test_whole_numbers_may_be_written_as_one_likes() -> None:
    assert composed("curriculum.stages.sft.steps=1e3").curriculum.stages["sft"].steps == 1000  # type: ignore[union-attr]
    assert composed("trainer.gradient_clip_val=1").trainer.gradient_clip_val == 1


@pytest.mark.parametrize(("section", "told"), [("Import", "overwrite"), ("Features", "seed")])
def test_commands_are_as_strict(section: str, told: str) -> None:
    from dress.config import tasks

    given = {
        "Import": {"task": "import", "source": "vlsafe", "path": "a", "out": "b", "overwrite": "true"},
        "Features": {"task": "features", "path": "a", "out": "b", "encoder": "tiny", "seed": float("inf")},
    }[section]
    with pytest.raises(config.ConfigError, match=told):
        config.check_as(getattr(tasks, section), given)


def test_a_named_model_has_a_last_position_too(rounds: Path) -> None:
    model, _ = load_model(rounds / "stages" / "sft")
    (data,) = (rounds.parent / "data").iterdir()
    samples = [open_split("eval", data, composed().data)[0]]
    openings = [Opening(0, dialogue, [""]) for dialogue in samples[0][0].dialogues]
    with pytest.raises(ValueError, match=r"max_new_tokens: expected less than the language model's 4,096 positions"):
        converse(Rollout(CkptResponder(model, "x"), NoRater(), Sampling(99_999, 8)), samples, openings)


def test_auto_without_bf16_is_fp32(monkeypatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for there, expected in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True, there=there: there)
        assert precision_for("auto") == expected


def test_a_negative_loss_weight_is_refused_where_it_arises(phases: config.Phases, monkeypatch) -> None:
    from dress.dialogue.spans import Span, SupervisedDialogue
    from dress.phases import PHASES, Phase

    spans = (Span("user", "u"), Span("assistant", "a", -1.0))
    monkeypatch.setitem(PHASES, "sft", Phase(lambda record, settings: [SupervisedDialogue("sft", spans)]))
    with pytest.raises(ValueError, match=r"phase sft, record k: expected a loss weight of at least 0, got -1\.0"):
        supervised(Record(key="k", image=None), {"sft": 1.0}, phases)


# --- the command line -----------------------------------------------------------------------------


PHASE = re.compile(r"^ +(critique|rating|refinement): ([\d.]+)(?: +#.*)?$", re.M)
"""A phase's weight in a printed configuration."""


def phases_of_dress(*typed: str, cwd: Path) -> list[tuple[str, str]]:
    done = train(cwd, *typed, "show=config", "curriculum.run=[eval]")
    assert done.returncode == 0, done.stderr
    return PHASE.findall(done.stdout)


@pytest.mark.parametrize("plus", ["", "++"])
def test_what_is_given_for_a_mapping_replaces_it(tmp_path: Path, plus: str) -> None:
    given = f"{plus}curriculum.stages.dress.phases={{critique:1.0}}"
    assert phases_of_dress(given, cwd=tmp_path) == [("critique", "1.0")]


def test_what_is_added_after_it_stays(tmp_path: Path) -> None:
    typed = ["curriculum.stages.dress.phases={critique:1.0}", "curriculum.stages.dress.phases.rating=2"]
    assert phases_of_dress(*typed, cwd=tmp_path) == [("critique", "1.0"), ("rating", "2.0")]


def test_it_does_in_a_sweep_as_well(tmp_path: Path) -> None:
    given = "curriculum.stages.dress.phases={critique:1.0},{rating:2.0}"
    assert phases_of_dress("-m", given, cwd=tmp_path) == [("critique", "1.0"), ("rating", "2.0")]


def test_arguments_that_give_no_mapping_are_left_as_they_are() -> None:
    typed = ["-m", "seed=0,1", "data.sft=other", "data.sizes={align: 3}", "+a={b: 1}", "--config-dir", "x", "~logger"]
    assert replacing(typed) == typed
    mixture = "data.sft={a: {path: x}}"
    assert replacing([mixture, "data.sft.a.weight=2"]) == ["++data.sft=null", mixture, "data.sft.a.weight=2"]


def test_null_takes_a_phase_out_of_a_file_below() -> None:
    stage = composed("curriculum.stages.dress.phases.refinement=null").curriculum.stages["dress"]
    assert isinstance(stage, config.TrainStage) and stage.phases == {"critique": 0.5}


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("curriculum.stages.sft.phases={sft:1.0,myphase:1.0}", "no such phase 'myphase'. There are: align, critique, "),
        ("curriculum.stages.dress.phases.refinment=1", "dress.phases: no such phase 'refinment'. There are: align, "),
        (
            "curriculum.stages.sfd.phases={sft: 1}",
            "stages.sfd: expected kind: train, collect, eval or export, or like",
        ),
        (
            "curriculum.stages.sfd.steps=1",
            "stages.sfd: expected kind: train, collect, eval or export, or like: another stage.",
        ),
        ("~data.workers", "~data.workers: a setting has a value in every run; say which: data.workers=…"),
        ("~curriculum.stages.dress.lr", "~curriculum.stages.dress.lr: a setting has a value in every run"),
    ],
)
def test_what_does_not_exist_is_named_with_what_does(tmp_path: Path, typed: str, told: str) -> None:
    done = train(tmp_path, typed)
    assert done.returncode and told in done.stderr and "Traceback" not in done.stderr


BUG = """
from dress.phases import phase
@phase("broken")
def broken(record, settings):
    one, two = [record]
"""


def test_a_bug_keeps_its_traceback_in_the_log_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(BUG)
    phases = ["phases.modules=[mine]", "curriculum.stages.align.phases={broken: 1}"]
    done = train(tmp_path, *FAST, *phases, "curriculum.run=[align]")
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    message, _, place = done.stderr.strip().rstrip(")").rpartition(" (traceback: ")
    assert message == "not enough values to unpack (expected 2, got 1)"
    log = (tmp_path / place).read_text()
    assert "mine.py" in log and "in broken" in log
    run_dir = next((tmp_path / "logs" / "dress_full").iterdir())
    assert (tmp_path / place).parent == run_dir


def test_a_mistake_before_a_run_begins_is_one_line_and_leaves_no_log(tmp_path: Path) -> None:
    done = train(tmp_path, "trainer.gradient_clip_val=-1")
    assert done.returncode == 1 and "traceback" not in done.stderr.lower()
    assert not list(tmp_path.rglob("*.log"))


def test_what_a_run_saves_is_read_again_as_it_was_checked() -> None:
    settings = composed("experiment=rounds_dress", "logger=[csv,wandb]")
    assert config.check(json.loads(json.dumps(settings.model_dump()))) == settings
