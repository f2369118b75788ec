"""Who judges where a finished run is asked: as typed, else the run's own, else as the data have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import composed
from suite_files import evaluate, lines
from test_judged_suites import a_run  # noqa: F401

from dress import config
from dress.base.files import read_json, write_json
from dress.config.inherited import inherited
from dress.config.raters import LLM, PlainRater, RaterSettings
from dress.evaluation.outcomes import load_outcomes
from dress.evaluation.suite import store_defaults
from dress.run.composing import compose

AUTO, ORACLE, RULES, NOBODY = (PlainRater(kind=kind) for kind in ("auto", "oracle", "rules", "none"))
SHARDS = config.Data(path="elsewhere")
SHAPES = config.Data(path="elsewhere", world="shapes", sizes=config.ShapesSizes(align=1, sft=1, prompts=1, eval=1))


def run_of(*typed: str) -> config.Config:
    return composed("experiment=sft_only", *typed)


def llm(url: str, key: str | None) -> LLM:
    return LLM(kind="llm", base_url=url, model="m", api_key_env=key)


@pytest.mark.parametrize(
    ("rater", "run", "data", "expected"),
    [
        (AUTO, None, None, RULES), (AUTO, None, SHARDS, RULES), (AUTO, None, SHAPES, ORACLE),
        (AUTO, run_of(), None, ORACLE), (AUTO, run_of("annotator=none"), SHARDS, NOBODY),
        (AUTO, run_of(), SHARDS, RULES), (AUTO, run_of("data=shards", "data.path=x"), None, RULES),
        (AUTO, run_of("data=shards", "data.path=x"), SHAPES, ORACLE), (RULES, run_of(), None, RULES),
    ],
)  # fmt: skip
def test_auto_is_the_runs_own(rater: RaterSettings, run: Any, data: Any, expected: RaterSettings) -> None:
    assert inherited("annotator", rater, run, data) == expected


def test_a_runs_file_sends_no_key_to_a_server_of_its_own_choice() -> None:
    strange = run_of().model_copy(update={"judge": llm("https://evil.example/v1", "OPENAI_API_KEY")})
    with pytest.raises(config.ConfigError, match=r"judge=llm judge\.base_url=https://evil\.example/v1") as told:
        inherited("judge", AUTO, strange)
    assert "\n" not in str(told.value)
    for known in (llm("https://api.openai.com/v1", "OPENAI_API_KEY"), llm("http://gpu-7:8000/v1", None)):
        assert inherited("judge", AUTO, strange.model_copy(update={"judge": known})) == known


def test_the_commands_files_say_auto() -> None:
    store_defaults()
    assert compose("collect", ["responder=x", "out=y"])["annotator"] == {"kind": "auto"}
    assert compose("eval", ["ckpt=x"])["judge"] == {"kind": "auto"}
    typed = ["suite=vqa", "judge=auto", "questions=q", "responder=x", "out=y"]
    assert compose("eval", typed)["judge"] == {"kind": "auto"}
    suite = compose("eval", ["suite=interaction", "responder=x", "out=y"])
    assert (suite["annotator"], suite["judge"]) == ({"kind": "auto"}, {"kind": "auto"})


@pytest.fixture
def shards_run(tmp_path: Path, a_run: Path) -> Path:  # noqa: F811
    """The same run as `a_run`, with nobody as its annotator and judge."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "stages").symlink_to(a_run / "stages")
    nobody = {name: {"kind": "none"} for name in ("annotator", "judge")}
    write_json(folder / "config.json", read_json(a_run / "config.json") | nobody)
    return folder


def test_a_run_is_evaluated_by_its_own_judge(tmp_path: Path, shards_run: Path) -> None:
    auto = {"kind": "auto"}
    found = evaluate(tmp_path / "out", suite="run", ckpt=str(shards_run), judge=auto, records=1, turns=1, batch_size=8)
    assert {o.rating for o in load_outcomes(tmp_path / "out" / "outcomes.jsonl")} == {None}
    assert found["sft"]["reference/rouge_l"]["n"] > 0
    again = {"suite": "interaction", "responder": str(shards_run), "annotator": auto, "judge": {"kind": "rules"}}
    evaluate(tmp_path / "again", records=1, turns=2, batch_size=8, **again)
    assert {o.facts["annotator"] for o in load_outcomes(tmp_path / "again" / "outcomes.jsonl")} == {"none"}


def test_auto_judges_a_suite_by_rules_where_it_can(tmp_path: Path) -> None:
    questions = lines(tmp_path / "q.jsonl", {"question_id": 1, "question": "What?", "answer": "red"})
    answers = lines(tmp_path / "a.jsonl", {"question_id": 1, "answer": "Red."})
    files = {"questions": questions, "responder": answers, "judge": {"kind": "auto"}}
    assert evaluate(tmp_path / "out", suite="vqa", **files)["judge"] == "rules"
    with pytest.raises(ValueError, match="judge=rules: suite=llava_eval expects one of llm, replay"):
        evaluate(tmp_path / "no", suite="llava_eval", **files)
