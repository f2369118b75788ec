"""Every command of docs/given_feedback.md, on a few pictures with feedback."""

from __future__ import annotations

from pathlib import Path

import pytest
from documented import commands, run, run_all
from test_given_feedback import SAFE, judged

from dress.base.files import read_json
from dress.data.shards import write_shards
from dress.worlds.shapes import generate as shapes

PAGE = "docs/given_feedback.md"


@pytest.mark.documented
@pytest.mark.slow
def test_the_commands_run(tmp_path: Path) -> None:
    for split in ("align", "sft", "prompts", "eval"):
        write_shards(tmp_path / "data" / "mine" / split, shapes.samples(split, 6, seed=0))
    for name in ("mine", "few", "only"):
        write_shards(tmp_path / "data" / name / "feedback", judged(7))
    for split in ("prompts", "eval"):
        write_shards(tmp_path / "data" / "few" / split, shapes.samples(split, 4, seed=0))
    typed = commands(PAGE)
    assert len(typed) == 7
    first, *rest = typed
    assert "stage 4/4 eval" in run(first, tmp_path)
    (tmp_path / "logs" / "mine").symlink_to((tmp_path / "logs" / "latest").resolve())
    said = run_all(rest, tmp_path)
    assert "also holds prompts, which no stage of given_feedback reads" in said[0]
    assert f"phases.praise: '{SAFE}'" in said[3] and "ROUGE-L" in said[4] and "annotator: rules" in said[5]
    assert read_json(tmp_path / "logs/latest/stages/dress/model.json")["conditions"]["praise"] == f"Feedback: {SAFE}"
