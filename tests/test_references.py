"""Answers beside known good ones: their figures, where they stand, and that nothing is NaN without them."""

from __future__ import annotations

import io
import json
import math
import re
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from rich.console import Console

from dress.config import Eval
from dress.data.shards import Sample
from dress.evaluation.cells import Questions, evaluate_models
from dress.evaluation.measures import Measure
from dress.evaluation.outcomes import Outcome, load_outcomes, save_outcomes
from dress.evaluation.references import known_answers, rouge_l
from dress.evaluation.report import write_report
from dress.evaluation.suites.run import metrics
from dress.rater import NoRater
from dress.record import Dialogue, Feedback, Record, Turn
from dress.report.figures import metrics_table, quantities, runs_table
from dress.rollout.responder import Sampling
from dress.run.result_rows import figures_table, flat_figures

ANSWERS = {"What is it?": "A red house.", "And this?": "The blue ball", "Harm?": "No."}


class Answering:
    """Answers by heart."""

    name = "heart"

    def preprocess(self, data: bytes, where: str) -> None:
        """Sees nothing."""

    def answer(self, questions: Any, pixels: Any, sampling: Sampling, progress: Any = None) -> list[str]:
        return [ANSWERS[question.dialogue.turns[-1].user] for question in questions]


def asked(user: str, reference: str | None = None, **more: Any) -> Dialogue:
    return Dialogue(turns=[Turn(user=user)], reference=reference, **more)


def outcomes_of(*dialogues: Dialogue) -> list[Outcome]:
    """One record per dialogue, asked and judged by nobody."""
    samples: list[Sample] = [(Record(key=f"r{n}", dialogues=[one]), None) for n, one in enumerate(dialogues)]
    settings = Eval(turns=1, conditions=["none"])
    questions = Questions(samples, NoRater(), settings, {"sft": {"none": ""}}, Sampling(8, 8))
    with TemporaryDirectory() as folder:
        return evaluate_models({"sft": lambda: nullcontext(Answering())}, questions, Path(folder))


def test_first_answers_are_measured_against_references(tmp_path: Path) -> None:
    outcomes = outcomes_of(
        asked("What is it?", "a Red house", criterion="helpfulness"),
        asked("And this?", "A green ball.", criterion="honesty"),
        asked("Harm?", criterion="harmlessness"),
    )
    save_outcomes(tmp_path / "o.jsonl", outcomes)
    assert load_outcomes(tmp_path / "o.jsonl") == outcomes
    found = metrics(outcomes, {"sft": "none"})["sft"]
    exact, rouge = found["reference/exact_match"], found["reference/rouge_l"]
    assert (exact["value"], exact["n"], found["reference/vqa_accuracy"]["value"]) == (0.5, 2, 0.5)
    assert rouge["value"] == pytest.approx((1 + 1 / 3) / 2) and 0 <= rouge["low"] < rouge["value"] < rouge["high"] <= 1
    assert found["reference/exact_match/helpfulness"]["value"] == 1 and "reference/rouge_l/harmlessness" not in found


def test_several_references_count_as_vqa_has_it() -> None:
    ten = ["red house"] * 2 + ["barn"] * 8
    (outcome,) = outcomes_of(asked("What is it?", extra={"references": ten}))
    assert outcome.facts["exact_match"] and outcome.facts["vqa_accuracy"] == pytest.approx(0.6)
    assert outcome.facts["rouge_l"] == pytest.approx(0.8)  # with the nearest one
    assert outcome.reference == "\n".join(ten)


def test_an_answer_that_nobody_judged_is_known_to_be_good() -> None:
    taught, judged = Turn(user="q", assistant="a"), Turn(user="q", assistant="a", feedback=[Feedback(rating=1)])
    assert known_answers(Dialogue(turns=[taught])) == ("a",)
    assert known_answers(Dialogue(turns=[judged])) == () and known_answers(asked("q", " ")) == ()


def test_intervals_are_clustered_by_record() -> None:
    facts = [{"exact_match": n % 3 == 0, "vqa_accuracy": float(n % 3 == 0), "rouge_l": (n % 3) / 4} for n in range(30)]
    apart = [Outcome("m", "none", f"r{n}/{i}", f"r{n}/{i}", facts=facts[n]) for n in range(30) for i in range(9)]
    shared = [Outcome("m", "none", f"r{n}/{i}", f"r{n}", facts=facts[n]) for n in range(30) for i in range(9)]
    for key in ("reference/exact_match", "reference/rouge_l"):
        wide, narrow = (metrics(some, {"m": "none"})["m"][key] for some in (shared, apart))
        assert wide["value"] == narrow["value"] and wide["high"] - wide["low"] > 2 * (narrow["high"] - narrow["low"])


@pytest.mark.parametrize(
    ("answer", "reference", "worth"),
    [
        ("Ein großer Hund.", "Ein grosser Hund", 1), ("собака и кот", "кот", 0.5), ("红色的房子", "红色房子", 8 / 9),
        ("?!", "a", 0),
    ],
)  # fmt: skip
def test_words_of_every_script_count(answer: str, reference: str, worth: float) -> None:
    assert rouge_l(answer, (reference,)) == pytest.approx(worth)


def printed(table: Any) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_figures_against_references_stand_in_table_report_and_loggers(tmp_path: Path) -> None:
    dialogues = asked("What is it?", "a Red house", criterion="helpfulness"), asked("And this?", "A green <b>ball</b>.")
    outcomes = outcomes_of(*dialogues)
    found = metrics(outcomes, {"sft": "none"})
    text = printed(metrics_table(found))
    assert "exact match" in text and "50.0\u00a0% n 2" in text and "ROUGE-L, helpfulness" in text
    assert "safe answers" not in text and not re.search(r" – ", text)  # nothing that nobody could measure
    assert "50.0" in printed(runs_table({"a": found, "b": found}))
    assert flat_figures(found)["final/sft/reference/exact_match"] == 0.5
    assert any(row[1] == "reference/rouge_l" for row in figures_table(found).rows)
    (tmp_path / "metrics.json").write_text(json.dumps(found))
    save_outcomes(tmp_path / "outcomes.jsonl", outcomes)
    samples = [(Record(key=f"r{n}", dialogues=[one]), None) for n, one in enumerate(dialogues)]
    page = write_report(tmp_path, samples, Eval(scenes=3), []).read_text()
    assert "<h4>Reference</h4>\n<p>A green &lt;b&gt;ball&lt;/b&gt;.</p>" in page
    assert "gives the reference in 50.0" in page and "Nothing could be measured" not in page


def test_without_references_nothing_is_new() -> None:
    found = metrics(outcomes_of(asked("Harm?")), {"sft": "none"})
    assert not [key for key in found["sft"] if key.startswith("reference/")]
    assert not [quantity for quantity in quantities(found) if quantity.group == "references"]


def finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    return all(map(finite, value)) if isinstance(value, list) else not isinstance(value, float) or math.isfinite(value)


@pytest.mark.parametrize("dialogues", [[], [asked("Harm?")], [asked("Harm?", "Yes.")], [asked("Harm?")] * 2])
def test_no_figure_is_nan(dialogues: list[Dialogue]) -> None:
    found = metrics(outcomes_of(*dialogues), {"sft": "none"})
    assert finite(found) and finite(flat_figures(found))
    assert "nan" not in printed(metrics_table(found)) + printed(runs_table({"a": found, "b": found}))


def test_a_mean_over_many_small_categories_has_no_interval_instead_of_nan() -> None:
    share = Measure("right", "right", lambda outcome: (outcome.facts["right"], 1))
    parts = [(share.parts([Outcome(item=f"{n}/x", facts={"right": n % 2})]), None) for n in range(40)]
    assert share.mean_of(parts) == {"value": 0.5, "n": 40, "low": None, "high": None}
