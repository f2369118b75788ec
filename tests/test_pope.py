"""POPE on files: joined by image and question, one answer to each, figures over files of labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from suite_files import Json, answer, ask, evaluate, label, lines

from dress.evaluation.outcomes import load_outcomes
from dress.evaluation.suites.pope import yes_or_no


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
    assert found["failures"] == sum(o.failed is not None for o in load_outcomes(tmp_path / "out" / "outcomes.jsonl"))


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
    assert yes_or_no(text) == means


def test_an_answer_that_says_neither_is_counted_as_popes_rule_has_it_and_told(tmp_path: Path) -> None:
    found = pope_of(tmp_path, [ask(0, "dog")], [label("dog", "no")], [answer(0, "dog", "It is a cat.")])
    assert (found["unclear"], found["yes_share"], found["accuracy"]) == (1, 1.0, 0.0)
