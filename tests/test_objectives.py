"""Objectives that compare answers: what they compare, what is said of the rest, and the start they measure from."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY, composed, tiny_settings
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from scripts import run_script

from dress import config
from dress.base.errors import ConfigError
from dress.base.processes import Interrupted
from dress.data.shards import Shards, write_shards
from dress.data.stream import Part, Stream
from dress.dialogue.batch import Batch
from dress.dialogue.spans import MISMATCHED, AnswerFacts
from dress.model.building import build_model
from dress.objectives.stage import stage_objectives
from dress.phases import check_phases
from dress.record import Dialogue, Feedback, Record, Turn
from dress.train.average import MovingAverage
from dress.train.curriculum import Curriculum
from dress.train.examples import Examples
from dress.train.steps import StepDataset

STAGE = {"weights": None, "data": "sft", "trainable": ["language"], "steps": 3, "records_per_step": 4, "lr": 1e-3}


def train_stage(phases: object, objective: object, **more: object) -> config.TrainStage:
    return config.TrainStage.model_validate({**STAGE, "phases": phases, "objective": objective, **more})


def answered(*ratings: int | None, question: str = "What is it?", refined: bool = True) -> Dialogue:
    """Answers in turn, each after advice on the one before."""
    turns = []
    for number, rating in enumerate(ratings):
        advice = f"Better than {number}." if refined else None
        feedback = [Feedback(rating=rating, critique=f"It is a {rating}.", refinement=advice)] if rating else []
        user = question if number == 0 else f"Better than {number - 1}."
        turns.append(Turn(user=user, assistant=f"answer {number} to {question}", feedback=feedback))
    return Dialogue(turns=turns)


def record(*dialogues: Dialogue, key: str = "r") -> Record:
    return Record(key=key, dialogues=list(dialogues))


def learned(
    phase: str, objective: str, *dialogues: Dialogue, **settings: object
) -> list[tuple[str, AnswerFacts | None]]:
    """The last answer of each dialogue that is of use, with what is known of it."""
    whole = composed(*(f"{name}={value}" for name, value in settings.items()))
    objectives = stage_objectives(train_stage(phase, {phase: objective}), whole.objectives)
    useful = objectives.dialogues(record(*dialogues), whole.phases)
    return [(one.spans[-1].text, one.answer) for one in useful]


def test_answers_of_one_rating_are_not_compared():
    assert learned("preference", "dpo", answered(2, 2), answered(4, question="And this?")) == []
    both = learned("preference", "dpo", answered(2, 4), answered(3, question="And this?"))
    assert [text for text, _ in both] == ["answer 0 to What is it?", "answer 1 to What is it?"]
    assert {facts.group for _, facts in both if facts} == {"0"}


def test_questions_of_other_turns_are_other_questions():
    other = Dialogue(
        turns=[
            Turn(user="q", assistant="a", feedback=[Feedback(rating=1, refinement="Better.")]),
            Turn(user="something else", assistant="b", feedback=[Feedback(rating=4)]),
        ]
    )
    assert learned("preference", "dpo", other) == []
    assert len(learned("preference", "kto", other)) == 1


def test_an_answer_that_stands_twice_has_its_lower_rating():
    same = [answered(2), answered(4)]
    assert learned("preference", "dpo", *same) == []
    ((_, facts),) = learned("preference", "kto", *same)
    assert facts is not None and facts.rating == 2


def test_the_teacher_needs_what_it_is_to_read():
    dialogue = answered(1, None)
    sides = [facts.side for _, facts in learned("distill", "distill", dialogue) if facts]
    assert sides == ["student", "teacher"]
    assert learned("distill", "distill", Dialogue(turns=[Turn(user="q", assistant="a")])) == []
    more = {"phases.distill.under": "reference"}
    assert learned("distill", "distill", dialogue, **more) == []  # nothing better is known
    assert len(learned("distill", "distill", answered(1, 4), **more)) == 2  # of the first one
    more = {"phases.distill.under": "refinement"}
    assert len(learned("distill", "distill", answered(1, 4, refined=False), **more)) == 0


def test_four_leaves_need_a_good_and_a_bad_answer():
    assert learned("self_correction", "self_correction", answered(3, 3)) == []
    four = learned("self_correction", "self_correction", answered(1, 4))
    assert [facts.side for _, facts in four if facts] == ["good, good", "good, bad", "bad, good", "bad, bad"]
    assert [text[:8] for text, _ in four] == ["answer 1", "answer 0", "answer 1", "answer 0"]


def test_better_answers_weigh_more_and_unrated_ones_nothing():
    whole = composed("objectives.reward_weighted.temperature=2.0")
    objectives = stage_objectives(train_stage("preference", "reward_weighted"), whole.objectives)
    useful = objectives.dialogues(record(answered(4, 2, None)), whole.phases)
    assert [round(one.spans[-1].weight, 4) for one in useful] == [1.0, round(float(torch.tensor(-1.0).exp()), 4)]


@pytest.mark.parametrize(
    ("phases", "objective", "said"),
    [
        ("sft", "dpo", r"objective: expected one of lm, words for phase sft, got dpo"),
        ("distill", "lm", r"objective: expected one of distill for phase distill, got lm"),
        ("preference", "distill", r"objective: expected one of dpo, kto, reward_weighted, lm for phase preference"),
    ],
)
def test_a_phase_has_objectives_of_its_own(phases: str, objective: str, said: str):
    with pytest.raises(ConfigError, match=said):
        check_phases({"one": train_stage(phases, objective)}, composed().phases)


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        ({"preference": "words"}, "words is the objective of a whole stage"),
        ({"sft": "lm"}, "objective.sft: expected a phase of this stage, preference"),
        ("ppo", "objective"),
    ],
)
def test_what_no_objective_is_is_refused(objective: object, said: str):
    with pytest.raises(ValueError, match=said):
        train_stage("preference", objective)


# --- mismatched answers ---------------------------------------------------------------------------


def dataset(folder: Path, model, whole: config.Config, rank: int, world: int) -> StepDataset:
    stage = train_stage("preference", "kto")
    objectives = stage_objectives(stage, whole.objectives)
    examples = Examples(objectives, whole.phases, whole.data, model.encoder, model.reader(), folder / "rejects")
    return StepDataset(Stream([Part("", Shards(folder))], 0), stage, examples, False, rank, world)


def keys(step) -> dict[str, tuple[str, int | None]]:
    return {
        key: (facts.side, facts.rating)
        for forest in step.forests
        if forest.answers
        for key, facts in zip(forest.answers.key, forest.answers.facts, strict=True)
    }


def test_mismatched_answers_are_those_of_the_step_whatever_the_ranks(tmp_path: Path, tokenizer):
    records = [record(answered(1 + n % 4, question=f"What is {n}?"), key=f"r{n}") for n in range(11)]
    records.append(record(Dialogue(turns=[Turn(user="q", assistant="not rated")]), key="unrated"))
    write_shards(tmp_path / "shards", [(one, None) for one in records], 5)
    whole = composed("scale=tiny")
    model = build_model(whole.model, tokenizer, 512, 0)
    alone = dataset(tmp_path / "shards", model, whole, 0, 1)
    for number in range(3):
        one = keys(alone[number])
        shares = [keys(dataset(tmp_path / "shards", model, whole, rank, 2)[number]) for rank in range(2)]
        assert shares[0] and shares[1] and shares[0] | shares[1] == one
        rated = [rating for side, rating in one.values() if side != MISMATCHED]
        assert len(rated) == sum(side == MISMATCHED for side, _ in one.values()) >= 3


# --- stages ---------------------------------------------------------------------------------------


def shards_of(folder: Path, *records: Record) -> Path:
    write_shards(folder, [(one, None) for one in records], 4)
    return folder


def settings_of(tmp_path: Path, feedback: Path, *more: str) -> config.Config:
    return tiny_settings(
        tmp_path, f"data.feedback={feedback}", "curriculum.stages.dress.data=feedback",
        "curriculum.without=[align,sft]", "curriculum.stages.eval.models=[dress]", "data.validation=null", *more,
    )  # fmt: skip


def test_a_stage_without_any_pair_stops_at_its_start(tmp_path: Path):
    feedback = shards_of(tmp_path / "feedback", *(record(answered(3), key=f"r{n}") for n in range(8)))
    settings = settings_of(tmp_path, feedback, "experiment=dpo_only")
    with pytest.raises(ValueError, match=r"stage dress: no supervised token in data\.feedback: none of its 8 records"):
        Curriculum(settings, Console(quiet=True)).run()


def test_the_start_is_scored_once_and_again_where_something_else_is_compared(tmp_path: Path):
    records = [record(answered(1, 4, question=f"What is {n}?"), key=f"r{n}") for n in range(8)]
    feedback = shards_of(tmp_path / "feedback", *records)
    settings = settings_of(tmp_path, feedback, "experiment=dpo_only")
    Curriculum(settings, Console(quiet=True)).run()
    stage = Path(settings.run_dir) / "stages" / "dress"
    stored = json.loads((stage / "reference.json").read_text())
    seen = stage_records(settings)
    assert len(stored["scores"]) == 2 * seen and all(value < 0 for value in stored["scores"].values())
    last = json.loads((stage / "history.json").read_text())[-1]
    assert {"preference/loss", "preference/margin", "preference/right_order", "train/loss"} <= last.keys()
    first = json.loads((stage / "history.json").read_text())[0]
    assert first["preference/loss"] == pytest.approx(0.6931, abs=2e-3)  # nothing has moved yet


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["dpo_only", "kto_only"])
def test_worker_processes_score_the_start_as_one_process_does(tmp_path: Path, experiment: str, monkeypatch):
    read, readers = StepDataset.__getitem__, tmp_path / "readers"

    def reading(dataset: StepDataset, step: int) -> Batch:
        with readers.open("a") as file:  # also those of worker processes
            file.write(f"{os.getpid()}\n")
        return read(dataset, step)

    monkeypatch.setattr(StepDataset, "__getitem__", reading)
    records = [record(answered(1, 4, 2, question=f"What is {n}?"), key=f"r{n}") for n in range(8)]
    feedback = shards_of(tmp_path / "feedback", *records)
    scores = []
    for workers in (0, 2):
        run_dir = f"run_dir={tmp_path / str(workers)}"
        settings = settings_of(tmp_path, feedback, f"experiment={experiment}", f"data.workers={workers}", run_dir)
        readers.unlink(missing_ok=True)
        Curriculum(settings, Console(quiet=True)).run()
        assert (str(os.getpid()) in readers.read_text().split()) == (workers == 0)
        stored = json.loads((tmp_path / str(workers) / "stages/dress/reference.json").read_text())
        scores.append(stored["scores"])
    assert scores[0].keys() == scores[1].keys() and len(scores[0]) > 8
    assert list(scores[0].values()) == pytest.approx([scores[1][key] for key in scores[0]], rel=1e-6)


def stage_records(settings: config.Config) -> int:
    """Different records that the stage sees."""
    stage = settings.curriculum.stages["dress"]
    assert isinstance(stage, config.TrainStage)
    return min(8, (stage.steps or 0) * stage.records_per_step)


def test_a_moving_average_is_in_place_for_a_while():
    model = torch.nn.Linear(2, 1, bias=False)
    average = MovingAverage(model, 0.5)
    before = model.weight.detach().clone()
    with torch.no_grad():
        model.weight += 2
    average.update()
    moved = model.weight.detach().clone()
    with average.in_place():
        assert torch.allclose(model.weight, before + 1)
    assert torch.equal(model.weight, moved)


@pytest.mark.parametrize(
    ("experiment", "strategy", "more"),
    [
        ("kto_only", "ddp", []),
        pytest.param("dpo_only", "ddp", [], marks=pytest.mark.slow),
        pytest.param("distill_only", "ddp", ["objectives.distill.teacher=average"], marks=pytest.mark.slow),
        pytest.param("self_correction_only", "ddp", [], marks=pytest.mark.slow),
        pytest.param("kto_only", "shard", [], marks=pytest.mark.slow),
        pytest.param("dpo_only", "shard", [], marks=pytest.mark.slow),
        pytest.param("distill_only", "shard", ["objectives.distill.teacher=current"], marks=pytest.mark.slow),
    ],
)
def test_two_processes_learn_what_one_does(tmp_path: Path, experiment: str, strategy: str, more: list[str]):
    """One of the records has nothing to compare, so that a process has fewer passes; the head is not tied."""
    records = [record(answered(1, 4, 2, question=f"What is {n}?"), key=f"r{n}") for n in range(7)]
    records.append(record(answered(None, question="Nobody knows."), key="r7"))
    feedback = shards_of(tmp_path / "feedback", *records)
    histories = []
    for ranks in (1, 2):
        words = [
            *TINY, f"experiment={experiment}", f"data.path={tmp_path / 'data'}", f"data.feedback={feedback}",
            "curriculum.stages.dress.data=feedback", "curriculum.without=[align,sft]", "curriculum.run=[dress]",
            "data.validation=null", f"trainer.devices={ranks}", "trainer.accelerator=cpu",
            f"run_dir={tmp_path / str(ranks)}", "model.language.config.tie_word_embeddings=false",
            "data.tokens_per_forest=60", "curriculum.stages.dress.lr=1e-3", *more,
            *([f"parallel.strategy={strategy}"] if ranks > 1 else []),
        ]  # fmt: skip
        done = run_script(ROOT / "src/train.py", *words, cwd=tmp_path, timeout=200)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        histories.append(json.loads((tmp_path / str(ranks) / "stages" / "dress" / "history.json").read_text()))
    one, two = ([point["train/loss"] for point in history] for history in histories)
    assert len(one) == 4 and one == pytest.approx(two, rel=1e-4)
    names = histories[0][-1].keys() - {"train/forest_fill"}
    for name in names:
        assert histories[0][-1][name] == pytest.approx(histories[1][-1][name], rel=2e-3, abs=1e-5), name


def test_a_stage_with_an_averaged_teacher_goes_on_where_it_was_stopped(tmp_path: Path):
    records = [record(answered(1, 4, question=f"What is {n}?"), key=f"r{n}") for n in range(8)]
    feedback = shards_of(tmp_path / "feedback", *records)
    more = ("experiment=distill_only", "objectives.distill.teacher=average", "training.checkpoint_every=2")
    more = (*more, "curriculum.stages.dress.lr=1e-2", "objectives.distill.decay=0.5", "curriculum.run=[dress]")
    whole = settings_of(tmp_path, feedback, *more)
    Curriculum(whole, Console(quiet=True)).run()
    parts = whole.model_copy(update={"run_dir": str(tmp_path / "parts")})
    parts = parts.model_copy(update={"callbacks": {"stop": {"_target_": f"{__name__}.StopAfter", "steps": 2}}})
    with pytest.raises(Interrupted):
        Curriculum(parts, Console(quiet=True)).run()
    last = torch.load(tmp_path / "parts/stages/dress/last.ckpt", weights_only=True)
    assert last["global_step"] == 2 and last["dress"]["average"]
    Curriculum(parts.model_copy(update={"callbacks": {}}), Console(quiet=True)).run()
    histories = [
        json.loads((Path(run) / "stages/dress/history.json").read_text()) for run in (whole.run_dir, parts.run_dir)
    ]
    assert [point["train/loss"] for point in histories[0]] == [point["train/loss"] for point in histories[1]]


class StopAfter(Callback):
    """Ends a stage as a signal does."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == self.steps:
            raise Interrupted("stopped here")
