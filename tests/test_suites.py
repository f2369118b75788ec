"""Suites on files: POPE, CHAIR, LLaVA's reviews, the paper's tables; what cannot be counted, and baselines."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from dress.evaluation.suites.outcome import SuiteOutcome, load
from dress.evaluation.suites.output import recompute
from dress.evaluation.suites.reading import image_key, read_rows
from dress.evaluation.suites.settings import SUITES, suite
from dress.evaluation.suites.stated_scores import stated_scores
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from dress.base.files import read_json
from dress.coco.chair_list import load_words
from dress.coco.chair_words import chair_mentions
from dress.coco.mentions import COCO80
from dress.config import ConfigError
from dress.evaluation.suites import measures, pope

PUBLIC = Path(os.environ.get("DRESS_PUBLIC_DATA", ROOT.parent / "shared" / "data"))
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100", "PYTHONPATH": str(ROOT / "src")}
Json = dict[str, Any]


def lines(path: Path, *rows: Json | str, end: str = "\n") -> str:
    """A file of JSON lines; text stands there as it is."""
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + end for row in rows)
    path.write_bytes(text.encode())
    return str(path)


def evaluate(out: Path, **settings: Any) -> Json:
    """Run a suite in this process; what it wrote must follow from its outcomes alone."""
    if settings["suite"] == "llava_bench":
        settings.setdefault("judge", {"kind": "none"})
    checked, run = suite({"out": str(out), **settings})
    result = run(checked, Console(quiet=True))
    assert read_json(out / "suite.json") == json.loads(json.dumps(result))
    assert recompute(out) == result
    return result


# --- POPE -----------------------------------------------------------------------------------------


def ask(number: int, thing: str, image: str = "COCO_val2014_000000000007.jpg") -> Json:
    more = "\nAnswer the question using a single word or phrase."
    return {
        "question_id": number,
        "image": image,
        "text": f"Is there a {thing} in the image?{more}",
        "category": "random",
    }


def label(thing: str, said: str, image: str = "COCO_val2014_000000000007.jpg") -> Json:
    return {"question_id": 999, "image": image, "text": f"Is there a {thing} in the image?", "label": said}


def answer(number: int, thing: str, text: str | None) -> Json:
    return {"question_id": number, "prompt": ask(number, thing)["text"], "text": text}


def pope_of(tmp_path: Path, questions: list[Any], labels: list[Any], answers: list[Any], **more: Any) -> Json:
    return evaluate(
        tmp_path / "out", suite="pope", questions=lines(tmp_path / "q.jsonl", *questions),
        labels=lines(tmp_path / "l.jsonl", *labels), answers=lines(tmp_path / "a.jsonl", *answers), **more,
    )  # fmt: skip


def test_pope_joins_by_image_and_question_and_never_by_position(tmp_path: Path) -> None:
    other = "COCO_val2014_000000000008.jpg"
    questions = [ask(0, "dog"), ask(1, "cat"), ask(2, "dog", other), ask(3, "cat", other)]
    labels = [label("dog", "yes"), label("cat", "no"), label("dog", "no", other), label("cat", "yes", other)]
    answers = [answer(0, "dog", "Yes"), answer(1, "cat", "Yes."), answer(2, "dog", "No"), answer(3, "cat", "no")]
    found = pope_of(tmp_path, questions, labels[::-1], answers[2:] + answers[:2])
    assert (found["n"], found["failures"]) == (4, 0)
    assert [found[key] for key in ("accuracy", "precision", "recall", "f1", "yes_share")] == [0.5, 0.5, 0.5, 0.5, 0.5]
    found = pope_of(tmp_path, questions, labels, [*answers[:1], answer(1, "cat", "No"), *answers[2:]])
    assert [found[key] for key in ("accuracy", "precision", "recall", "f1")] == [3 / 4, 1, 1 / 2, pytest.approx(2 / 3)]
    assert found["by_category"]["random"]["f1"] == found["f1"]
    assert found["judge"] == "rules" and found["runs"] == 1


def test_what_pope_cannot_count_is_named(tmp_path: Path) -> None:
    things = ["dog", "cat", "car", "bus", "cow", "bed", "cup", "bowl"]
    questions = [ask(n, thing) for n, thing in enumerate(things)]
    labels: list[Any] = [label("dog", "YES"), label("cat", " No "), label("car", "yes"), label("bus", "maybe"),
                         label("cow", "yes"), label("bed", "yes"), label("bed", "no"), label("cup", "no")]  # fmt: skip
    answers = [
        answer(0, "dog", "yes"), answer(0, "dog", "yes"), answer(1, "cat", "No"), answer(1, "cat", "Yes"),
        answer(2, "car", " "), answer(3, "bus", "yes"), answer(99, "dog", "yes"), '{"question_id": 4, "text": "Y',
        answer(5, "bed", "yes"), answer(7, "bowl", "yes"), answer(6, "cup", None),
    ]  # fmt: skip
    found = pope_of(tmp_path, questions, labels, answers)
    assert found["failed"] == {
        "empty answer": 2, "answered again": 1, "answered again, differently": 1, "no answer": 1, "no label": 1,
        "label is neither yes nor no but 'maybe'": 1, "labels contradict each other": 1, "unknown question_id": 1,
        "not JSON": 1,
    }  # fmt: skip
    assert (found["n"], found["accuracy"], found["failures"]) == (2, 1.0, 10)
    assert found["failures"] == sum(o.failed is not None for o in load(tmp_path / "out" / "outcomes.jsonl"))


def test_windows_line_ends_marks_and_several_label_files(tmp_path: Path) -> None:
    questions = lines(tmp_path / "q.jsonl", ask(0, "dog"), ask(1, "cat"), end="\r\n")
    labels = [lines(tmp_path / f"{n}.jsonl", row) for n, row in enumerate((label("dog", "yes"), label("cat", "no")))]
    answers = tmp_path / "a.jsonl"
    lines(answers, answer(0, "dog", "Yes\r\n"), answer(1, "cat", "No"), end="\r\n")
    answers.write_bytes(b"\xef\xbb\xbf" + answers.read_bytes())
    found = evaluate(tmp_path / "out", suite="pope", questions=questions, labels=labels, answers=str(answers))
    assert (found["accuracy"], found["n"], found["failures"]) == (1.0, 2, 0)


def three_categories(tmp_path: Path) -> tuple[Json, dict[str, str]]:
    """Questions and answers of three categories, and labels by category: six dogs are asked of in each of them."""
    questions, answers, labels = [], [], {}
    for part, category in enumerate(("random", "popular", "adversarial")):
        things = [*(f"dog {n}" for n in range(6)), *(f"{category} {n}" for n in range(6 + 2 * part))]
        rows = []
        for n, thing in enumerate(things):
            number = 100 * part + n
            questions.append(ask(number, thing) | {"category": category})
            truth = "yes" if thing.startswith("dog") else "no"
            right = n % 3 >= part  # all of random, two thirds of popular, one third of adversarial
            answers.append(answer(number, thing, truth if right else {"yes": "no", "no": "yes"}[truth]))
            rows.append(label(thing, truth))
        labels[category] = lines(tmp_path / f"coco_pope_{category}.jsonl", *rows)
    both = {"questions": lines(tmp_path / "q.jsonl", *questions), "answers": lines(tmp_path / "a.jsonl", *answers)}
    return both, labels


def test_popes_figures_are_over_the_questions_of_one_file_of_labels(tmp_path: Path) -> None:
    files, labels = three_categories(tmp_path)
    for category, n, accuracy in (("random", 12, 1.0), ("popular", 14, 9 / 14), ("adversarial", 16, 5 / 16)):
        found = evaluate(tmp_path / category, suite="pope", labels=labels[category], **files)
        own = found["by_category"][category]
        assert (found["n"], found["accuracy"]) == (own["n"], own["accuracy"]) == (n, accuracy)
        assert found["failed"] == {"no label": 42 - n - 12, "counted in another category": 12}
        assert "mean_over" not in found


def test_several_files_of_labels_get_a_column_each_and_their_mean(tmp_path: Path) -> None:
    files, labels = three_categories(tmp_path)
    every = evaluate(tmp_path / "all", suite="pope", labels=list(labels.values()), **files)
    alone = {c: evaluate(tmp_path / c, suite="pope", labels=file, **files) for c, file in labels.items()}
    names = [f"coco_pope_{category}" for category in sorted(labels)]
    assert every["mean_over"] == names == list(every["by_category"])
    for key in ("accuracy", "precision", "recall", "f1", "yes_share"):
        parts = [every["by_category"][f"coco_pope_{category}"][key] for category in labels]
        assert parts == [found[key] for found in alone.values()]
        assert every[key] == pytest.approx(sum(parts) / 3)
        low, high = every["intervals"][key]
        assert low <= every[key] <= high
    assert every["accuracy"] != pytest.approx(26 / 42)  # that is the mean over answers, not over files
    assert (every["n"], every["failures"]) == (12 + 14 + 16, 0)
    again = evaluate(
        tmp_path / "b", suite="pope", labels=list(labels.values()), baseline=str(tmp_path / "all"), **files
    )
    assert again["comparison"]["differences"]["f1"] == {"value": 0, "n": 42, "low": 0, "high": 0}
    other = lines(tmp_path / "other.jsonl", label("unicorn", "no"))
    nothing = evaluate(tmp_path / "c", suite="pope", labels=[labels["random"], other], **files)
    assert nothing["f1"] is None and nothing["by_category"]["coco_pope_random"]["f1"] == 1
    assert nothing["failed"]["no answer"] == 1


@pytest.mark.parametrize(
    ("text", "means"),
    [("Yes", "yes"), ("No, there is not.", "no"), ("There is no dog. Yes.", "no"), ("NO", "no"), ("a dog", "yes"),
     ("There is not a dog", "no"), ("Yes. No.", "yes"), ("Nothing", "yes")],
)  # fmt: skip
def test_popes_rule(text: str, means: str) -> None:
    assert pope.said(text) == means


def test_an_answer_that_says_neither_is_counted_as_popes_rule_has_it_and_told(tmp_path: Path) -> None:
    found = pope_of(tmp_path, [ask(0, "dog")], [label("dog", "no")], [answer(0, "dog", "It is a cat.")])
    assert (found["unclear"], found["yes_share"], found["accuracy"]) == (1, 1.0, 0.0)


# --- CHAIR ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("A hot dog and two dogs", ["hot dog", "dog"]),
        ("The trainer boards a train on train tracks", ["train"]),
        ("a toilet seat, a seat, toilet paper", ["toilet", "chair", "toilet"]),
        ("Knives, buses, geese, mice and wine glasses", ["knife", "bus", "bird", "mouse", "wine glass"]),
        ("an orange cat, no dog", ["orange", "cat", "dog"]),
        ("a passenger train, a baby giraffe, a baby", ["train", "giraffe", "person"]),
        ("a stove top oven", ["oven"]),
        ("a man's bow tie", ["person", "tie"]),
        ("category, scar, carpet, glasses, bus stop", ["bus"]),
        ("", []),
    ],
)  # fmt: skip
def test_chair_takes_words_literally(text: str, labels: list[str]) -> None:
    assert [label for label, _ in chair_mentions(text)] == labels


def test_every_label_of_coco_is_its_own_name() -> None:
    assert all([found for found, _ in chair_mentions(f"a {label}")] == [label] for label in COCO80)


CAPTIONS = [{"image_id": 1, "caption": "A dog and a cat."}, {"image_id": 2, "caption": "Two dogs on a bed, a car."}]
OBJECTS = {"000000000001.jpg": ["dog", "cat"], "2": ["dog", "chair"]}


def chair_of(tmp_path: Path, captions: str, objects: Any, **more: Any) -> Json:
    file, known = tmp_path / "captions", tmp_path / "objects"
    file.write_bytes(captions.encode())
    known.write_text(objects if isinstance(objects, str) else json.dumps(objects))
    return evaluate(tmp_path / "out", suite="chair", captions=str(file), objects=str(known), **more)


@pytest.mark.parametrize(
    "captions",
    [
        json.dumps(CAPTIONS),
        "".join(json.dumps(row) + "\r\n" for row in CAPTIONS),
        "\n".join(json.dumps(row, indent=4) for row in CAPTIONS),
        json.dumps({row["image_id"]: row["caption"] for row in CAPTIONS}),
        json.dumps({"annotations": CAPTIONS, "images": [{"id": 1}, {"id": 2}]}, indent=1),
    ],
)
def test_chair_reads_every_form_of_captions(tmp_path: Path, captions: str) -> None:
    found = chair_of(tmp_path, captions, OBJECTS)
    assert (found["chair_i"], found["chair_s"], found["coverage"]) == (2 / 5, 1 / 2, 3 / 4)
    assert (found["n"], found["failures"], found["most_invented"]) == (2, 0, {"bed": 1, "car": 1})


def test_chair_reads_coco_and_rows_of_instances(tmp_path: Path) -> None:
    coco = {
        "images": [{"id": 1}, {"id": 2}, {"id": 3}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}],
        "annotations": [{"image_id": i, "category_id": c} for i, c in ((1, 18), (1, 17), (1, 17), (2, 18))],
    }  # fmt: skip
    references = tmp_path / "references.json"
    references.write_text(json.dumps({"annotations": [{"image_id": 2, "caption": "A dog on a chair"},
                                                      {"image_id": 9, "caption": "A dog"}]}))  # fmt: skip
    found = chair_of(tmp_path, json.dumps(CAPTIONS), coco, references=str(references))
    assert (found["chair_i"], found["coverage"]) == (2 / 5, 3 / 4)
    assert found["failures"] == 0  # image 3 of the data set was not to be captioned
    rows = [
        {"image": "1.jpg", "instances": [{"category": "dog", "bbox": []}, {"category": "cat"}]},
        {"image": "2.jpg", "captions": ["a chair"], "instances": [{"category": "dog"}]},
    ]
    found = chair_of(tmp_path, json.dumps(CAPTIONS), "\n".join(map(json.dumps, rows)))
    assert (found["chair_i"], found["coverage"]) == (2 / 5, 3 / 4)


def test_what_chair_cannot_count_is_named(tmp_path: Path) -> None:
    captions = [*CAPTIONS, CAPTIONS[0], {"image_id": 2, "caption": "A car."}, {"image_id": 3, "caption": "\n"},
                {"image_id": 8, "caption": "A dog"}, {"caption": "A dog"}]  # fmt: skip
    text = "\r\n".join(map(json.dumps, captions)) + '\r\n{"image_id": 5, "caption": "A'
    found = chair_of(tmp_path, text, {**OBJECTS, "3": [], "4": ["sofa", "unicorn"]})
    assert found["failed"] == {
        "captioned again": 1, "captioned again, differently": 1, "empty caption": 1, "image is not in objects": 1,
        "no caption": 1, "no image_id": 1, "not JSON": 1,
        "objects: label is none of COCO's 80": 1,
    }  # fmt: skip
    assert (found["n"], found["chair_s"], found["failures"]) == (2, 1 / 2, 8)


def test_an_image_has_one_name_however_it_is_written() -> None:
    names = [40468, "40468", "000000040468.jpg", "COCO_val2014_000000040468.jpg", "x/COCO_train2014_000000040468.png"]
    assert {image_key(name) for name in names} == {"40468"}
    assert image_key("cat_1.jpg") != image_key("dog_1.jpg")


# --- CHAIR with the original's list -----------------------------------------------------------------

WORDS = """person, man, woman, people, baby, adult, passenger
dog, puppy
giraffe
train, passenger train
toilet, commode
chair, seat, stool
tie, bow
wine glass, goblet
hot dog
orange
"""


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("A man, two dogs and a puppy.", ["person", "dog", "dog"]),
        ("a hot dog; hot, dogs", ["hot dog", "dog"]),
        ("a baby giraffe, an adult dog, a baby", ["giraffe", "dog", "person"]),
        ("a passenger train for passengers", ["train", "person"]),
        ("a toilet seat", ["toilet"]),
        ("the seat of a toilet", ["toilet"]),
        ("a seat, a commode", ["chair", "toilet"]),  # a commode is no word `toilet`: the original counts the seat
        ("a bow tie, a bow", ["tie", "tie"]),
        ("two wine glasses", ["wine glass"]),
        ("no dog on the train tracks", ["dog"]),
        ("an orange cat", ["orange"]),
        ("a man's dog", ["person", "dog"]),
        ("a table and a unicorn", []),
    ],
)  # fmt: skip
def test_a_published_list_of_words_is_read_as_chair_reads_it(tmp_path: Path, text: str, labels: list[str]) -> None:
    file = tmp_path / "synonyms.txt"
    for end in ("\n", "\r\n"):
        file.write_bytes(WORDS.replace("\n", end).encode())
        assert [label for label, _ in load_words(str(file)).mentions(text)] == labels


def test_chair_with_a_list_of_words(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text(WORDS)
    captions = [{"image_id": 1, "caption": "A puppy on a stool."}, {"image_id": 2, "caption": "A man and a goblet."}]
    objects = {"1": ["dog", "chair"], "2": ["person", "unicorn"]}
    found = chair_of(tmp_path, json.dumps(captions), objects, words=str(tmp_path / "words.txt"))
    assert (found["chair_i"], found["chair_s"], found["coverage"]) == (1 / 4, 1 / 2, 1)
    assert found["prompt_hash"].startswith("chair-list@") and found["most_invented"] == {"wine glass": 1}
    assert found["failed"] == {"objects: label is not in words": 1}
    ours = chair_of(tmp_path, json.dumps(captions), objects)
    assert ours["prompt_hash"].startswith("chair@") and ours["chair_i"] == 0  # a goblet is no name of ours


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("person, man\ndog,, puppy\n", 2),
        ("person,\n", 1),
        ('person, man\n\n{"dog": []}\n', 3),
        ("person\x00\n", 1),
        ("", 1),
    ],
)
def test_a_damaged_list_of_words_is_refused_with_its_line(tmp_path: Path, text: str, place: int) -> None:
    file = tmp_path / "words.txt"
    file.write_text(text)
    with pytest.raises(ValueError, match=rf"words=.*words\.txt:{place}: expected an object and its synonyms"):
        chair_of(tmp_path, json.dumps(CAPTIONS), OBJECTS, words=str(file))
    file.write_bytes(b"person\xff")
    with pytest.raises(ValueError, match=r"words=.*words\.txt: expected UTF-8"):
        chair_of(tmp_path, json.dumps(CAPTIONS), OBJECTS, words=str(file))


# --- LLaVA's reviews ------------------------------------------------------------------------------


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


# --- figures and baselines ------------------------------------------------------------------------

SHARE = measures.Measure("right", "right", lambda o: (o.facts["right"], 1))
RATIO = measures.Measure("part", "part", lambda o: (o.facts["right"], o.facts["of"]), kind="ratio", scale=100)
TOY = measures.Suite("toy", lambda outcomes: (SHARE, RATIO))


def toy(right: list[int], first: int = 0, **more: Any) -> list[SuiteOutcome]:
    return [SuiteOutcome(f"s{first + n}", facts={"right": r, "of": 2}, **more) for n, r in enumerate(right)]


def test_figures_are_sums_over_sums_with_intervals() -> None:
    outcomes = [*toy([1] * 30 + [0] * 10), SuiteOutcome("x", failed="why")]
    found = measures.summary(TOY, outcomes)
    assert (found["right"], found["part"], found["n"], found["failures"]) == (0.75, 37.5, 40, 1)
    low, high = found["intervals"]["right"]
    assert (low, high) == (pytest.approx(0.598, abs=1e-3), pytest.approx(0.858, abs=1e-3))  # Wilson
    low, high = found["intervals"]["part"]
    assert 25 < low < 37.5 < high < 45


def test_of_one_sample_one_outcome_counts_and_runs_are_averaged() -> None:
    again = [*toy([1, 0]), *toy([0, 0])]
    assert measures.summary(TOY, again)["right"] == 0.5
    runs = [*toy([1, 0], run=0), *toy([0, 0], run=1)]
    found = measures.summary(TOY, runs)
    assert (found["right"], found["n"], found["runs"], found["counted"]["right"]) == (0.25, 2, 2, 2)


def test_a_share_of_several_runs_stays_a_share() -> None:
    runs = [*toy([1, 1, 1, 0], run=0), *toy([1, 1, 0, 1], run=1)]
    low, high = measures.summary(TOY, runs)["intervals"]["right"]
    assert low < 0.75 < high == 1


@given(st.lists(st.integers(0, 1), min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_figures_do_not_depend_on_the_order_of_outcomes(right: list[int], random: Any) -> None:
    outcomes = toy(right)
    mixed = random.sample(outcomes, len(outcomes))
    ours, theirs = (measures.figures(TOY, some)["right"] for some in (outcomes, mixed))
    assert ours == pytest.approx(theirs) and 0 <= ours <= 1


def test_a_baseline_is_compared_by_pairs() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2, 400)
    better = np.maximum(base, rng.random(400) < 0.05)  # right wherever the baseline is, and a little more
    found = measures.compared(TOY, toy(better.tolist()), toy(base.tolist(), first=10))
    assert (found["pairs"], found["only_here"], found["only_baseline"]) == (390, 10, 10)
    same = measures.compared(TOY, toy(better.tolist()), toy(base.tolist()))["differences"]["right"]
    assert same["value"] == pytest.approx(better.mean() - base.mean())
    # Unpaired, an interval of 400 shares would be three times as wide and hold 0.
    assert 0 < same["low"] < same["value"] < same["high"] < 2.5 * same["value"]
    none = measures.compared(TOY, toy([1]), toy([1], first=1))["differences"]["right"]
    assert none["value"] is None


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


# --- settings and files ---------------------------------------------------------------------------


def test_settings_are_closed_and_errors_name_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"answer: no such setting. Did you mean answers"):
        suite({"suite": "pope", "out": "x", "labels": "l", "answers": "a", "answer": "b"})
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


def eval_py(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LIGHT, str(ROOT / "src" / "eval.py"), *arguments],
        capture_output=True, text=True, check=False, timeout=120, env=ENVIRONMENT,
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


def test_every_suite_has_a_file_with_its_settings() -> None:
    """Else Hydra refuses to override them without a plus."""
    assert {"run", *SUITES} == {file.stem for file in (ROOT / "configs" / "suite").glob("[!_]*.yaml")}
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        for name, (fields, _) in SUITES.items():
            composed = compose("eval", overrides=[f"suite={name}"])
            assert composed.keys() == fields.model_fields.keys() and composed.suite == name


# --- the paper's tables ---------------------------------------------------------------------------


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


# --- published numbers ----------------------------------------------------------------------------

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
    read = [(o.facts["score_1"], o.facts["score_2"]) for o in load(tmp_path / "text" / "outcomes.jsonl")]
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
