"""What is printed while long work goes on and its output goes to a file."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from conftest import small_model
from rich.console import Console

from dress import config
from dress.base import progress
from dress.base.progress import CurriculumProgress
from dress.data.shards import Shards
from dress.feedback.collect import Collection, collect
from dress.rollout.checkpoint import CkptResponder
from dress.rollout.conversation import Rollout
from dress.rollout.responder import Sampling
from dress.worlds.shapes.rater import OracleRater


def test_a_collection_says_how_many_answers_there_are_before_its_first_shard(
    tmp_path: Path, shapes_folder: Path, tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    out = io.StringIO()
    shown = CurriculumProgress(Console(file=out, width=120), {"collect": "answers of sft to prompts"})
    rollout = Rollout(CkptResponder(small_model(tokenizer), "x"), OracleRater(), Sampling(4, 4))
    settings = config.CollectSettings(records=6, turns=1, per_shard=6)
    shown.start("collect", 6)
    collect(rollout, Collection(Shards(shapes_folder / "prompts"), settings, tmp_path), shown.advance)
    first, *lines, last = out.getvalue().splitlines()
    assert first == "stage 1/1 collect: 6 to do  (answers of sft to prompts)"
    assert len(lines) > 1 and all(line.startswith("stage 1/1 collect: 0/6") and "answers" in line for line in lines)
    assert last.startswith("stage 1/1 collect: 6/6")
