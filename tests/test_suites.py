"""Suites: their settings and files, LLaVA's reviews, the paper's tables, baselines, the command."""

from __future__ import annotations

import json
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from suite_files import CAPTIONS, OBJECTS, Json, chair_of, evaluate, lines

from dress.base.files import read_json
from dress.config import ConfigError, check_as
from dress.evaluation import suites as package
from dress.evaluation.outcomes import load_outcomes
from dress.evaluation.output import recompute
from dress.evaluation.rows import read_rows
from dress.evaluation.settings import SuiteSettings
from dress.evaluation.stated_scores import stated_scores
from dress.evaluation.suite import registered, store_defaults
from dress.evaluation.suite import suite as register

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100", "PYTHONPATH": str(ROOT / "src")}


@pytest.mark.parametrize(
    ("review", "read"),
    [
        ("8 9\nBoth are good.", (8, 9, False)),
        ("8, 9.5", (8, 9.5, False)),
        ("\n 7 7 \nEqual.", (7, 7, False)),
        ("Both are good.\nAssistant 1: 7 (brief)\nAssistant 2: 8/10", (7, 8, True)),
        ("**Assistant 1**: 3\n**Assistant 2**: score 4.", (3, 4, True)),
        ("In short, the scores are (1, 5).", (1, 5, True)),
        ("Assistant 1: 7\nAssistant 2: 8\nScores: (6, 8)", "several scores in the review"),
        ("Assistant 1: 3 steps are shown\nAssistant 2: 5 steps", "no scores in the review"),
        ("Assistant 1:\n1. It adds\nAssistant 2:\n2. It divides", "no scores in the review"),
        ("I liked both.", "no scores in the review"),
        ("8", "no scores in the review"),
        ("85 90", "score is not from 1 to 10"),
        ("-1 9", "no scores in the review"),
    ],
)  # fmt: skip
def test_scores_are_read_where_they_are_stated(review: str, read: Any) -> None:
    assert stated_scores(review) == read


def test_reviews_are_read_from_their_text_and_failures_never_averaged(tmp_path: Path) -> None:
    rows = [
        {"question_id": 1, "content": "8 4\nx", "tuple": [1, 1], "category": "conv"},
        {"question_id": 2, "content": "6 6\nx", "tuple": [1, 1], "category": "detail"},
        {"question_id": 3, "content": "Both are fine, really.", "tuple": [9, 9], "category": "conv"},
        {"question_id": 4, "text": "", "category": "conv"},
        {"question_id": 1, "content": "8 4", "category": "conv"},
    ]
    found = evaluate(tmp_path / "out", suite="llava_bench", reviews=lines(tmp_path / "r.jsonl", *rows))
    assert (found["relative"], found["score_1"], found["score_2"]) == (pytest.approx(100 * 10 / 14), 7, 5)
    assert found["by_category"]["conv"]["relative"] == 50 and found["by_category"]["conv"]["failures"] == 3
    assert found["failed"] == {"empty review": 1, "no scores in the review": 1, "reviewed again": 1}


def test_an_output_says_whom_it_is_compared_with(tmp_path: Path) -> None:
    reviews = [{"question_id": n, "content": f"8 {n + 1}", "category": "ab"[n % 2]} for n in range(8)]
    better = [{**row, "content": f"8 {n + 2}"} for n, row in enumerate(reviews)]
    evaluate(tmp_path / "base", suite="llava_bench", reviews=lines(tmp_path / "r.jsonl", *reviews))
    found = evaluate(
        tmp_path / "out",
        suite="llava_bench",
        reviews=lines(tmp_path / "b.jsonl", *better),
        baseline=str(tmp_path / "base"),
    )
    difference = found["comparison"]["differences"]["score_2"]
    assert (difference["value"], difference["low"], difference["high"]) == (1, 1, 1)
    assert found["comparison"]["by_category"]["a"]["differences"]["relative"]["value"] == pytest.approx(12.5)
    with pytest.raises(ValueError, match=r"expected an output of suite=chair, got one of suite=llava_bench"):
        chair_of(tmp_path, json.dumps(CAPTIONS), OBJECTS, baseline=str(tmp_path / "base"))
    with pytest.raises(FileNotFoundError, match=r"expected the output of a suite"):
        chair_of(tmp_path, json.dumps(CAPTIONS), OBJECTS, baseline=str(tmp_path / "nowhere"))


def test_settings_are_closed_and_errors_name_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"answer: no such setting. Did you mean answers"):
        check_as(
            registered()["pope"].settings, {"suite": "pope", "out": "x", "labels": "l", "answers": "a", "answer": "b"}
        )
    with pytest.raises(FileNotFoundError, match=r"reviews=nowhere: expected a file, found none"):
        evaluate(tmp_path / "out", suite="llava_bench", reviews="nowhere")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ValueError, match=r"reviews=.*empty: expected JSON, got an empty file"):
        evaluate(tmp_path / "out", suite="llava_bench", reviews=str(tmp_path / "empty"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError, match=r"reviews=.*binary: expected UTF-8"):
        evaluate(tmp_path / "out", suite="llava_bench", reviews=str(tmp_path / "binary"))
    with pytest.raises(ValueError, match=r"expected {image: \[labels\]}, COCO's instances"):
        chair_of(tmp_path, json.dumps(CAPTIONS), {"a": 1})


@given(st.lists(st.dictionaries(st.text(max_size=5), st.integers() | st.text(), max_size=3), min_size=1, max_size=5))
@settings(max_examples=40)
def test_rows_are_read_whatever_they_look_like(tmp_path_factory: Any, rows: list[Json]) -> None:
    file = tmp_path_factory.mktemp("rows") / "rows.json"
    for text in (
        json.dumps(rows),
        "\n".join(map(json.dumps, rows)),
        "\r\n".join(json.dumps(r, indent=2) for r in rows),
    ):
        file.write_bytes(text.encode())
        assert [row.data for row in read_rows("rows", str(file))] == rows


def test_damage_costs_its_own_object_only(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text('{\n "a": 1\n}\n{\n "a": tru\n}\n{\n "a": 3\n}\n7\n{"a": 4}\n')
    rows = read_rows("rows", str(file))
    assert [row.data.get("a") for row in rows] == [1, None, 3, None, 4]
    assert [row.where for row in rows if row.damage] == ["rows.json:4", "rows.json:10"]


LIGHT = (
    "import sys, runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__');"
    "assert not {'torch', 'transformers', 'lightning'} & sys.modules.keys()"
)
"""Runs a script, and fails if it loaded what only models need."""


def eval_py(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LIGHT, str(ROOT / "src" / "eval.py"), *arguments],
        capture_output=True, text=True, check=False, timeout=120, **({"env": ENVIRONMENT} | more),
    )  # fmt: skip


def test_the_command_prints_a_table_and_loads_nothing_heavy(tmp_path: Path) -> None:
    rows = [{"question_id": n, "content": t, "category": "ab"[n % 2]} for n, t in enumerate(("8 4", "6 6", "[bold]no"))]
    done = eval_py("suite=llava_bench", f"reviews={lines(tmp_path / 'r.jsonl', *rows)}", f"out={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert re.search(r"relative\s+score.*71\.43", done.stdout, re.DOTALL)
    assert re.search(r"failures\s+1\s+1\s+0", done.stdout)
    assert re.search(r"no scores in the review\s+1\s+r\.jsonl:3", done.stdout)
    assert (tmp_path / "out" / "suite.json").exists()


def test_rules_on_a_file_of_answers_load_nothing_heavy(tmp_path: Path) -> None:
    questions = lines(tmp_path / "q.jsonl", {"question_id": 1, "image": "1.jpg", "text": "What?", "answer": "red"})
    answers = lines(tmp_path / "a.jsonl", {"question_id": 1, "text": "Red."})
    done = eval_py("suite=vqa", f"questions={questions}", f"responder={answers}", f"out={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert re.search(r"accuracy, %\s+100\.0", done.stdout)


def test_a_typo_in_a_suite_is_one_line() -> None:
    done = eval_py("suite=pope", "lables=x")
    assert (done.returncode, done.stderr) == (2, "lables: no such setting. Did you mean labels?\n")
    done = eval_py("suite=popo")
    assert done.stderr.startswith("suite=popo: no such option. Did you mean pope? There are: ")


def test_every_suite_is_found_and_its_file_holds_what_differs_from_its_schema() -> None:
    """Every setting stands in the composed file with its default: Hydra refuses to override others without a plus."""
    suites = registered()
    assert {info.name for info in pkgutil.iter_modules(package.__path__)} >= suites.keys()
    assert suites.keys() == {file.stem for file in (ROOT / "configs" / "suite").glob("*.yaml")}
    store_defaults()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        for name, suite in suites.items():
            composed = compose("eval", overrides=[f"suite={name}"])
            assert composed.keys() == suite.settings.model_fields.keys() and composed.suite == name
            written = yaml.safe_load((ROOT / "configs" / "suite" / f"{name}.yaml").read_text())
            assert written.pop("defaults")[0] == f"_{name}"
            defaults = {field: info.default for field, info in suite.settings.model_fields.items()}
            assert all(defaults[key] != value for key, value in written.items())


def test_a_suite_of_ones_own_is_what_the_page_shows(tmp_path: Path) -> None:
    """The code of docs/evaluation.md, outside of the package: 40 lines."""
    text = (ROOT / "docs" / "evaluation.md").read_text().partition("## A suite of your own")[2]
    (_, code), (_, config), (_, command), *_ = re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)
    assert len(code.splitlines()) + len(config.splitlines()) <= 40
    folder = tmp_path / "my_suites"
    (folder / "suite").mkdir(parents=True)
    (folder / "counting.py").write_text(code)
    (folder / "suite" / "counting.yaml").write_text(config)
    counts = [{"image": f"{n // 2}.jpg", "text": f"How many {'ab'[n % 2]}?", "number": n} for n in range(4)]
    lines(tmp_path / "counts.jsonl", *counts, {"image": "9.jpg"})
    answers = [{"item": f"{row['image']}/{row['text']}", "answer": f"I see {row['number'] % 3}."} for row in counts]
    lines(tmp_path / "counted.jsonl", *answers)
    words = shlex.split(command)
    assert words[:3] == ["PYTHONPATH=my_suites", "python", "src/eval.py"]
    paths = {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT / 'src'}"}
    done = eval_py(*words[3:], cwd=tmp_path, env=ENVIRONMENT | paths)
    assert done.returncode == 0, done.stderr
    found = read_json(tmp_path / "eval" / "counting" / "suite.json")
    assert (found["suite"], found["accuracy"], found["n"]) == ("counting", 0.75, 4)
    assert found["failed"] == {"no text or number": 1}
    assert [o.key for o in load_outcomes(tmp_path / "eval" / "counting" / "outcomes.jsonl")][1:] == ["0", "0", "1", "1"]
    lost = eval_py(*words[3:], cwd=tmp_path, env=ENVIRONMENT)
    assert (lost.returncode, lost.stderr.partition(":")[0]) == (1, "suite_module=counting")
    assert "PYTHONPATH=DIR" in lost.stderr and lost.stderr.count("\n") == 1


def test_a_suite_that_asks_nobody_is_what_the_page_shows_and_counts_an_item_once(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "evaluation.md").read_text().partition("A suite that asks nobody")[2]
    (_, code), (_, config), *_ = re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)
    folder = tmp_path / "my_suites"
    (folder / "suite").mkdir(parents=True)
    (folder / "lengths.py").write_text(code)
    (folder / "suite" / "lengths.yaml").write_text(config)
    rows = [{"question_id": number, "answer": "word " * (number + 1)} for number in (0, 1, 3, 3)]
    answers = lines(tmp_path / "answers.jsonl", *rows)
    paths = {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT / 'src'}"}
    typed = [f"--config-dir={folder}", "suite=lengths", f"answers={answers}", "out=eval/lengths"]
    done = eval_py(*typed, cwd=tmp_path, env=ENVIRONMENT | paths)
    assert done.returncode == 0, done.stderr
    result = read_json(tmp_path / "eval" / "lengths" / "suite.json")
    assert (result["n"], result["failed"]) == (3, {"given again": 1}) and result["words"] == pytest.approx(7 / 3)
    assert re.search(r"words per answer\s+2\.33", done.stdout) and "words per answer, %" not in done.stdout


def test_two_suites_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match=r"suite=pope: registered by dress\.evaluation\.suites\.pope and test_suites"):
        register("pope", SuiteSettings)(lambda settings, console: [])


def test_outcomes_of_an_earlier_version_are_read_and_paired(tmp_path: Path) -> None:
    """0.1 called the item `key`; its folders still serve as baselines."""
    rows = [{"question_id": n, "content": f"8 {n + 1}"} for n in range(4)]
    files = {"suite": "llava_bench", "reviews": lines(tmp_path / "r.jsonl", *rows)}
    new = evaluate(tmp_path / "old", **files)
    file = tmp_path / "old" / "outcomes.jsonl"
    old = [json.loads(line) for line in file.read_text().splitlines()]
    empty = dict.fromkeys(("failed", "user", "responder", "judge", "prompt")) | {"category": "", "turn": 0, "run": 0}
    lines(file, *({"key": row.pop("item"), **empty, **row} for row in old))
    assert '"item"' not in file.read_text()
    assert recompute(tmp_path / "old") == new
    again = evaluate(tmp_path / "new", **files, baseline=str(tmp_path / "old"))
    assert again["comparison"]["pairs"] == 4 and again["comparison"]["differences"]["score_2"]["value"] == 0


class Cells(HTMLParser):
    """The texts of every table row."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.rows: list[list[str]] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside &= tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data


def test_the_papers_tables_get_a_row(tmp_path: Path) -> None:
    chair_of(tmp_path, json.dumps(CAPTIONS), OBJECTS)
    (tmp_path / "out").rename(tmp_path / "short")
    found = evaluate(tmp_path / "paper", suite="paper", name="a_b & <c>", short_caption=str(tmp_path / "short"))
    own = found["tables"]["honesty"]["a_b & <c>"]
    assert own["Instruction-1/CHAIR_i"] == 40 and own["Instruction-2/CHAIR_i"] is None
    assert found["headline"] == {"DRESS": {"harmlessness": 21.03, "honesty": 11.55}}  # half a row has none
    assert (found["n"], found["failures"], found["inputs"]["short_caption"]["suite"]) == (2, 0, "chair")
    rows = Cells((tmp_path / "paper" / "paper.html").read_text()).rows
    assert ["a_b & <c>", "40.00", "50.00", "–", "–"] in rows
    assert ["DRESS", "2.34", "3.30", "4.74", "9.84"] in rows
    tex = (tmp_path / "paper" / "paper.tex").read_text()
    assert r"a\_b \& <c> & 40.00 & 50.00 & -- & -- \\" in tex and r"DRESS & \textbf{2.34}" in tex
    assert tex.count("{") == tex.count("}")
    with pytest.raises(ValueError, match=r"vlsafe=.*expected an output of suite=vlsafe, got one of chair"):
        evaluate(tmp_path / "paper", suite="paper", vlsafe=str(tmp_path / "short"))
