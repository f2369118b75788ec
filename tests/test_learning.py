"""A stage proves that it learned something finite: what it cannot learn from is known before, the rest stops it."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import torch
from conftest import composed, small_model, tiny_settings
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import load_file
from test_command_line import train

from dress.base.progress import CurriculumProgress
from dress.base.run_folder import unlock
from dress.data.shards import Shards, write_shards
from dress.data.stream import Part, Stream
from dress.objectives.stage import stage_objectives
from dress.phases import supervised
from dress.record import Dialogue, Feedback, Record, Turn
from dress.run.start import start_run
from dress.train.curriculum import Curriculum
from dress.train.module import NotFinite
from dress.train.supervision import Supervision

ONE = [
    "curriculum.run=[sft]",
    "curriculum.stages.sft.weights=null",
    "curriculum.stages.sft.steps=12",
    "trainer.precision=32-true",
]


def run(settings) -> Path:
    Curriculum(settings, Console(quiet=True)).run()
    return Path(settings.run_dir) / "stages" / "sft"


def record(key: str, answer: str | None, **feedback: object) -> Record:
    given = [Feedback(**feedback)] if feedback else []
    return Record(key=key, dialogues=[Dialogue(turns=[Turn(user="What?", assistant=answer, feedback=given)])])


def test_a_loss_that_is_not_finite_stops_the_stage_and_the_last_finite_checkpoint_stays(tmp_path):
    wild = tiny_settings(tmp_path, *ONE, "curriculum.stages.sft.lr=1e8", "training.checkpoint_every=1")
    with pytest.raises(NotFinite, match=r"stage sft, step \d+: .*(phase sft|weights).*Go on with .*resume=.*sft\.lr"):
        run(wild)
    folder = Path(wild.run_dir) / "stages" / "sft"
    assert not (folder / "done.json").exists()
    if (folder / "last.ckpt").exists():
        state = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
        assert all(value.isfinite().all() for value in state.values())


def test_a_stage_goes_on_with_another_learning_rate(tmp_path, monkeypatch):
    from test_resume import stop_after

    from dress.base.processes import Interrupted

    stop_after(monkeypatch, 4)
    with pytest.raises(Interrupted):
        run(tiny_settings(tmp_path, *ONE, "curriculum.stages.sft.lr=1e-2", "training.checkpoint_every=4"))
    folder = run(tiny_settings(tmp_path, *ONE, "curriculum.stages.sft.lr=1e-4"))
    rates = {row["curriculum/step"]: row["train/lr"] for row in json.loads((folder / "history.json").read_text())}
    assert max(rate for step, rate in rates.items() if step <= 4) > 5e-3
    assert max(rate for step, rate in rates.items() if step > 4) <= 1e-4


@functools.cache
def supervision(phases: str, *more: str) -> Supervision:
    whole = composed(
        f"curriculum.stages.sft.phases={phases}", "curriculum.run=[sft]", "curriculum.stages.sft.weights=null", *more
    )
    stage = whole.curriculum.stages["sft"]
    return Supervision("sft", stage, stage_objectives(stage), whole.phases, whole.data, *ENCODER)


ENCODER: list = []


@pytest.fixture(autouse=True, scope="module")
def _encoder(tokenizer):
    model = small_model(tokenizer)
    ENCODER[:] = [model.encoder, model.reader()]


def stream(folder: Path, records: list[Record]) -> Stream:
    write_shards(folder, [(one, None) for one in records])
    return Stream([Part("", Shards(folder))], 0)


def test_data_without_a_supervised_token_are_named_before_training(tmp_path):
    quiet = CurriculumProgress(Console(quiet=True), {})
    asked = stream(tmp_path / "a", [record("one", None), record("two", None)])
    with pytest.raises(ValueError, match=r"stage sft: no supervised token in data\.sft: none of its 2 records"):
        list(supervision("{sft: 1.0}").check(asked, quiet))
    unrated = stream(tmp_path / "b", [record("one", "Yes.", refinement="Say more.")])
    with pytest.raises(ValueError, match=r"none of its 1 records gives phase sft"):
        list(supervision("{sft: 1.0}").check(stream(tmp_path / "c", [record("x", None)]), quiet))
    assert list(supervision("{sft: 1.0}").check(unrated, quiet)) == []
    assert list(supervision("{sft: 1.0, critique: 1.0}").check(unrated, quiet)) == [
        "stage sft: phase critique learns nothing from data.sft (1 read)"
    ]


def test_rows_that_are_too_long_are_known_at_the_start_and_no_others_are_read(tmp_path, monkeypatch):
    rows = [record(str(n), "word " * n) for n in (3, 40, 300, 400)]
    mixed, quiet = stream(tmp_path / "rows", rows), CurriculumProgress(Console(quiet=True), {})
    look = supervision("{sft: 1.0}", "data.max_tokens=512")
    with pytest.raises(ValueError, match=r"2 rows of data\.sft are longer than data\.max_tokens=512: .*: 300 \(\d"):
        list(look.check(mixed, quiet))
    skipping = supervision("{sft: 1.0}", "data.max_tokens=512", "data.on_damage=skip")
    (line,) = skipping.check(mixed, quiet)
    assert "2 rows" in line and "set aside" in line
    read = []
    monkeypatch.setattr(Shards, "record", lambda self, index: read.append(index))
    monkeypatch.setattr(skipping, "_dialogues", lambda record: [])
    skipping.too_long(mixed.parts[0].shards)
    assert 0 not in read and {2, 3} <= set(read)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(min_size=1, max_size=60), min_size=1, max_size=4), st.sampled_from(["{sft: 1.0}"]))
def test_a_record_has_no_more_tokens_than_its_size_says(texts, phases):
    look = supervision(phases)
    turns = [Turn(user=text, assistant=text[::-1]) for text in texts]
    one = Record(key="k", dialogues=[Dialogue(turns=turns)])
    longest = max(look.encoder.length(d, None) for d in supervised(one, look.stage.phases, look.phases))
    tight = look.data.model_copy(update={"max_tokens": longest - 1})
    assert Supervision("sft", look.stage, look.objectives, look.phases, tight, *ENCODER).could_be_longer(
        len(one.dump())
    )


def test_more_tokens_than_positions_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data\.max_tokens=60000: expected at most 4096, the positions"):
        run(tiny_settings(tmp_path, *ONE, "data.max_tokens=60000"))


def test_a_changed_rate_beside_resume_is_taken_and_kept(tmp_path):
    folder = tmp_path / "run"
    stages = ["curriculum.run=[sft]", f"data.path={tmp_path / 'data'}"]
    whole = tiny_settings(tmp_path, *stages, "curriculum.stages.sft.lr=1e8", "trainer.precision=32-true")
    start_run(whole)
    with pytest.raises(NotFinite):
        run(whole)
    unlock(folder)
    done = train(tmp_path, f"resume={folder}", "curriculum.stages.sft.lr=1e-3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(value.isfinite().all() for value in load_file(folder / "stages/sft/model.safetensors").values())
    kept = json.loads((folder / "config.json").read_text())
    assert kept["curriculum"]["stages"]["sft"]["lr"] == 1e-3
