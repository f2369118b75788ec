"""The end of a run as rows, and what TensorBoard gets of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import composed

from dress.data.shards import Shards
from dress.evaluation.outcomes import Outcome
from dress.run import loggers
from dress.run.result_rows import flat_figures, sample_table

FIGURE = {"value": 0.5, "n": 2, "low": 0.1, "high": 0.9}


def outcome(record_key: str, model: str, turn: int, **more: Any) -> Outcome:
    condition = "none" if model == "sft" else "praise"
    return Outcome(
        model=model, condition=condition, item=f"{record_key}/0", key=record_key, criterion="honesty",
        kind="description", turn=turn, user="What is there?", answer=f"{model} {turn}",
        rating=2, critique="Bad | really.", refinement="Look again.", facts={},
    )  # fmt: skip


def test_tensorboard_gets_figures_tables_and_samples(tmp_path: Path, shapes_folder: Path) -> None:
    shards = Shards(shapes_folder / "eval")
    samples = [shards[0], shards[1]]
    outcomes = [outcome(r.key, m, t) for r, _ in samples for m in ("sft", "dress") for t in (0, 1)]
    settings = composed("logger=tensorboard", run_dir=tmp_path)
    metrics = {
        "sft": {"honesty/chair_i": FIGURE},
        "conditions": {"sft/none": {"honesty/chair_i": FIGURE}},
    }
    loggers.log_results(settings, metrics, outcomes, samples)

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Scalars("final/sft/honesty/chair_i")[0].value == 0.5
    assert set(events.Tags()["images"]) == {"samples/0", "samples/1"}
    assert any(tag.startswith("samples/0") for tag in events.Tags()["tensors"])


def test_a_missing_tensorboard_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'pip install -e "\.\[tensorboard\]"'):
        loggers.build_loggers(composed("logger=tensorboard", run_dir=tmp_path), "sft", False)


def test_sample_rows_pair_the_answers_of_one_dialogue(shapes_folder: Path) -> None:
    sample = Shards(shapes_folder / "eval")[0]
    key = sample[0].key
    answers = [outcome(key, m, t) for m in ("sft", "dress") for t in (0, 1)]
    rows = sample_table(answers, [sample], {"sft": "none", "dress": "praise"}).rows
    assert rows[0].values == (
        "description", "What is there?", "sft 0", "dress 0", 2, "Bad | really.\nLook again.", "dress 1",
    )  # fmt: skip
    assert rows[0].picture() is not None


def test_flat_figures_name_turns_and_hold_what_was_counted() -> None:
    nothing = {"value": None, "n": 0, "low": None, "high": None}
    flat = flat_figures({"dress": {"interaction/mean_rating": [FIGURE, nothing]}})
    assert flat == {"final/dress/interaction/mean_rating/turn_0": 0.5}  # NaN is no point of a curve
