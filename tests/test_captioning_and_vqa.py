"""Captioning under the paper's instructions, and visual question answering: by rules, and by a judge on loopback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from llm_server import serving
from suite_files import evaluate, lines
from test_judged_suites import Judge, llm

from dress.evaluation.references import accuracy, normalised


def test_captioning_under_both_instructions(tmp_path: Path) -> None:
    objects = tmp_path / "objects.json"
    objects.write_text(json.dumps({"1": ["dog"], "2": ["cat"]}))
    short, brief = "Generate a short caption of the image.", "Provide a brief description of the given image."
    rows = [
        {"image_id": 1, "prompt": f"Question: {short} Answer: ", "text": "A dog."},
        {"image_id": 2, "prompt": f"Question: {short} Answer: ", "text": "A dog."},
        {"image_id": 1, "prompt": brief, "text": "A dog on a bed."},
        {"image_id": 2, "text": "A dog."},
    ]
    files = {"suite": "captioning", "objects": str(objects), "responder": lines(tmp_path / "a.jsonl", *rows)}
    found = evaluate(tmp_path / "out", judge={"kind": "rules"}, **files)
    apart = found["by_category"]
    assert (apart["short caption"]["chair_s"], apart["short caption"]["n"]) == (1 / 2, 2)
    assert (apart["brief description"]["chair_i"], apart["brief description"]["n"]) == (1 / 2, 1)
    assert found["failed"] == {"no answer": 1, "no question, and several are asked about its image": 1}
    with serving(Judge()) as address:
        read = evaluate(tmp_path / "read", judge=llm(address), **files)
    assert read["by_category"]["brief description"]["chair_i"] == 0  # this judge reads of no bed
    paper = evaluate(tmp_path / "paper", suite="paper", captioning=str(tmp_path / "out"))
    assert paper["tables"]["honesty"]["ours"]["Instruction-1/CHAIR_s"] == 50
    assert paper["tables"]["honesty"]["ours"]["Instruction-2/CHAIR_i"] == 50


@pytest.mark.parametrize(
    ("given", "known", "worth"),
    [
        ("The Red", ["red"], 1), ("two", ["2", "3"], 1), ("blue", ["red"], 0), ("dont know", ["don't know"], 1),
        ("red.", ["red"] * 2 + ["blue"] * 8, 0.6), ("red", ["red"] * 4 + ["blue"] * 6, 1), ("red", ["blue"] * 10, 0),
        ("1,000", ["1000"], 1), ("3.5", ["35"], 0),
    ],
)  # fmt: skip
def test_vqas_soft_accuracy(given: str, known: list[str], worth: float) -> None:
    assert accuracy(given, known) == pytest.approx(worth)


def test_vqa_normalises_as_published() -> None:
    assert normalised("A  red-and-white Bus.") == "red and white bus"


def test_vqa_reads_its_own_files(tmp_path: Path) -> None:
    questions, annotations = tmp_path / "q.json", tmp_path / "n.json"
    asked = [{"question_id": n, "image_id": n, "question": "What colour?"} for n in range(4)]
    known = [
        {"question_id": n, "answer_type": ["other", "number"][n % 2], "answers": [{"answer": "red"}] * 10}
        for n in range(3)
    ]
    questions.write_text(json.dumps({"questions": asked, "task_type": "x"}))
    annotations.write_text(json.dumps({"annotations": known}))
    answers = lines(tmp_path / "a.jsonl", *({"question_id": n, "answer": ["red", "dark red"][n % 2]} for n in range(3)))
    files = {"suite": "vqa", "questions": str(questions), "annotations": str(annotations), "responder": answers}
    found = evaluate(tmp_path / "out", judge={"kind": "rules"}, **files)
    assert (found["accuracy"], found["exact_match"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert found["by_category"]["number"]["accuracy"] == 0 and found["failed"] == {"no known answer": 1}
    with serving(Judge()) as address:
        found = evaluate(tmp_path / "judged", judge=llm(address), **files)
    assert (found["accuracy"], found["exact_match"]) == (1, pytest.approx(2 / 3))
