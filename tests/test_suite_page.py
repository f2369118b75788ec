"""The page of a suite: what its figures are short of stands on it, and each figure leads there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from conftest import png
from suite_files import evaluate, lines

ANSWERS = {0: "Red", 1: "A <b>blue</b> one", 2: "two", 3: None}
KNOWN = {0: "red", 1: "green", 2: "3", 3: "red"}


def page(folder: Path, out: str, answers: dict[int, str | None] = ANSWERS, **settings: Any) -> str:
    """The page of four questions about three pictures, one of them asked in vain."""
    images = folder / "images"
    images.mkdir(exist_ok=True)
    for name in ("a", "b", "c"):
        (images / f"{name}.png").write_bytes(png())
    kinds = ("colour", "colour", "number", "colour")
    questions = [
        {"question_id": n, "image": f"{'abca'[n]}.png", "question": f"Q{n}?", "answers": [KNOWN[n]], "category": kind}
        for n, kind in enumerate(kinds)
    ]
    rows = [{"question_id": n, "text": text} for n, text in answers.items() if text is not None]
    files = {
        "questions": lines(folder / "q.jsonl", *questions),
        "responder": lines(folder / f"{out}.jsonl", *rows),
        "images": str(images),
    }
    evaluate(folder / out, suite="vqa", judge={"kind": "rules"}, **files, **settings)
    return (folder / out / "suite.html").read_text(encoding="utf-8")


def cards(html: str) -> list[tuple[set[str], str]]:
    """Classes and contents of the cards, in their order."""
    parts = re.split(r'<article[^>]*class="([^"]*)"', html)[1:]
    return [(set(names.split()), text) for names, text in zip(parts[::2], parts[1::2], strict=True)]


def test_figures_lead_to_the_answers_that_they_are_short_of(tmp_path: Path) -> None:
    html = page(tmp_path, "out")
    shown = cards(html)
    assert [re.search(r"Q\d\?", text).group() for _, text in shown] == ["Q1?", "Q3?", "Q2?"]  # type: ignore[union-attr]
    table = html[html.index("<table") : html.index('id="failures"')]
    links = re.findall(r'href="#only-(\d)"', table)
    assert links == ["0", "1", "2"]  # two figures, and what was not counted
    short = [{number for number in links if f"only-{number}" in names} for names, _ in shown]
    assert short == [{"0", "1"}, {"2"}, {"0", "1"}]
    wrong = shown[0][1]
    assert "A &lt;b&gt;blue&lt;/b&gt; one" in wrong and "- green" in wrong and "accuracy: 0" in wrong
    assert wrong.count("data:image/png") == 1 and "(no answer)" in shown[1][1]
    assert "accuracy: 2 questions, shown here." in html and "not counted, no answer: 1 question, shown here." in html


def test_a_baselines_answers_stand_beside(tmp_path: Path) -> None:
    page(tmp_path, "before", {**ANSWERS, 1: "green"})
    shown = cards(page(tmp_path, "after", baseline=str(tmp_path / "before")))
    wrong = next(text for _, text in shown if "Q1?" in text)
    assert wrong.index("blue") < wrong.index("baseline") < wrong.index("Reference") and "accuracy: 1" in wrong


def test_most_questions_may_be_few_or_none(tmp_path: Path) -> None:
    html = page(tmp_path, "one", failures=1)
    assert len(cards(html)) == 1 and "1 of 3 questions." in html
    assert "accuracy: 2 questions, 1 of them shown here (outcomes.jsonl has all)." in html
    html = page(tmp_path, "right", {n: text for n, text in KNOWN.items()})
    assert not cards(html) and "No answer falls short." in html
