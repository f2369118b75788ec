"""Published figures come out of published files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from conftest import ROOT
from suite_files import evaluate, lines

from dress.base.files import read_json
from dress.evaluation.outcomes import load_outcomes

PUBLIC = Path(os.environ.get("DRESS_PUBLIC_DATA", ROOT.parent / "shared" / "data"))
public = pytest.mark.public_data


def published(*parts: str) -> str:
    if not PUBLIC.is_dir():
        pytest.skip(f"not run: no public data at {PUBLIC} (set DRESS_PUBLIC_DATA)")
    return str(PUBLIC.joinpath(*parts))


@public
def test_pope_of_llava_is_as_published(tmp_path: Path) -> None:
    files = {
        "questions": published("pope", "llava_pope_test_random.jsonl"),
        "answers": published("pope", "answers_llava-v1.5-13b_random.jsonl"),
    }
    found = evaluate(tmp_path / "out", suite="pope", labels=published("pope", "coco_pope_random.jsonl"), **files)
    assert (round(found["f1"], 4), round(found["accuracy"], 4)) == (0.8714, 0.8801)
    assert (found["n"], found["failures"], found["unclear"]) == (2910, 0, 0)
    # Answers of categories without labels change nothing, though they share the questions of what is there.
    rows = [[json.loads(line) for line in Path(files[name]).read_text().splitlines()] for name in files]
    more = [[{**row, "question_id": row["question_id"] + 10**8} for row in some] for some in rows]
    popular, wrong = [{**q, "category": "popular"} for q in more[0][:2000]], [{**a, "text": "No"} for a in more[1]]
    popular += [{**q, "text": q["text"].replace("Is", "Was"), "category": "popular"} for q in more[0][2000:]]
    wrong[2000:] = [{**a, "prompt": a["prompt"].replace("Is", "Was")} for a in wrong[2000:]]
    whole = {"questions": lines(tmp_path / "q", *popular, *rows[0]), "answers": lines(tmp_path / "a", *wrong, *rows[1])}
    mixed = evaluate(tmp_path / "mixed", suite="pope", labels=published("pope", "coco_pope_random.jsonl"), **whole)
    assert mixed["failed"] == {"counted in another category": 2000, "no label": 910}
    assert [mixed[key] for key in ("f1", "accuracy", "n")] == [found[key] for key in ("f1", "accuracy", "n")]
    # POPE's own longer file holds other questions too: by position, F1 would be 45.65.
    longer = evaluate(tmp_path / "more", suite="pope", labels=published("pope", "coco_pope_random_3000.json"), **files)
    assert longer["failed"] == {"no answer": 234, "no label": 144} and longer["n"] == 2910 - 144
    assert longer["f1"] == pytest.approx(found["f1"], abs=0.01)


@public
@pytest.mark.parametrize(
    ("file", "chair_i", "chair_s"),
    [("Instruction1_llava.json", 0.188, 0.627), ("Instruction2_instructblip.json", 0.026, 0.037)],
)
def test_chair_is_as_published(tmp_path: Path, file: str, chair_i: float, chair_s: float) -> None:
    objects = published("chair", "gt_objects.json")
    found = evaluate(tmp_path / "out", suite="chair", captions=published("chair", file), objects=objects)
    assert (found["n"], found["failures"]) == (2000, 0)
    assert found["chair_i"] == pytest.approx(chair_i, abs=0.005)
    assert found["chair_s"] == pytest.approx(chair_s, abs=0.005)


@public
def test_llavas_reviews_are_as_published(tmp_path: Path) -> None:
    text = published("llava_reviews", "review_alpaca-13b_vicuna-13b.jsonl")
    found = evaluate(tmp_path / "text", suite="llava_bench", reviews=text)
    assert (found["score_1"], found["score_2"], found["n"], found["from_prose"]) == (7.2875, 8.8, 80, 3)
    known = [json.loads(line)["score"] for line in Path(text).read_text().splitlines()]
    read = [(o.facts["score_1"], o.facts["score_2"]) for o in load_outcomes(tmp_path / "text" / "outcomes.jsonl")]
    assert read == [tuple(map(float, pair)) for pair in known]
    bench = published("llava_reviews", "llava-bench_llava-v1.5-7b-eval1.jsonl")
    found = evaluate(tmp_path / "bench", suite="llava_bench", reviews=bench)
    assert (round(found["relative"], 2), found["n"], found["failures"]) == (64.75, 60, 0)
    assert {name: row["n"] for name, row in found["by_category"].items()} == {
        "llava_bench_complex": 28, "llava_bench_conv": 17, "llava_bench_detail": 15
    }  # fmt: skip


@public
def test_the_papers_headline_follows_from_its_tables(tmp_path: Path) -> None:
    tables = published("dress_tables.json")
    found = evaluate(tmp_path / "out", suite="paper", tables=tables)
    assert found["headline"]["DRESS"]["harmlessness"] == 21.03
    assert found["headline"]["DRESS"]["honesty"] == pytest.approx(11.52, abs=0.05)
    ours = evaluate(tmp_path / "ours", suite="paper")
    assert ours["tables"] == found["tables"] == {c: read_json(Path(tables))[c] for c in ours["tables"]}
