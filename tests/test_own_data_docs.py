"""docs/own_data.md and docs/public_sets.md: every command runs, as processes, on small tables in the shapes they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from documented import ROOT, commands, run
from imports import json_lines, photo, photos, records
from scripts import run_script
from test_own_rows import OWN, parquet, table
from test_public_sets import PAIR

PAGES = ("docs/own_data.md", "docs/public_sets.md")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    table(tmp_path, *OWN, name="answers.csv")
    parquet(tmp_path / "antworten.parquet",
            *({"Bild": {"bytes": photo(n), "path": None}, "Frage": "Was?", "Antwort": "Ja.", "Rückmeldung": "Kurz.",
               "Note": n * 10} for n in range(8)))  # fmt: skip
    words = [{"image": f"pic{n}.jpg", "question": "?", "answer": "A.", "rating": word}
             for n, word in enumerate(("good", "so so", "bad"))]  # fmt: skip
    json_lines(tmp_path / "words.jsonl", words)
    json_lines(tmp_path / "pairs.jsonl", [{"image": "pic0.jpg"} | PAIR])
    photos(tmp_path / "raw" / "images", "a.jpg")
    json_lines(tmp_path / "raw" / "spa_vl" / "train.jsonl", [{"id": 1, "image": "a.jpg"} | PAIR])
    photos(tmp_path / "raw" / "spa_vl" / "images", "a.jpg")
    parquet(tmp_path / "raw" / "RLAIF-V" / "data" / "x.parquet", {"image": {"bytes": photo(1), "path": "a.jpg"}} | PAIR)
    row = {"picture": "a.jpg", "asked": "?", "answer_a": "A.", "answer_b": "B.", "use_a": 1, "use_b": 10, "why_a": "No.",
           "why_b": "Yes.", "safer": 1}  # fmt: skip
    json_lines(tmp_path / "raw" / "reviews.jsonl", [row])
    (mapping,) = re.findall(r"```yaml\n(.*?)```", (ROOT / PAGES[1]).read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "reviews.yaml").write_text(mapping)
    return tmp_path


def typed(page: str) -> list[list[str]]:
    """Also commands in an indented block."""
    text = (ROOT / page).read_text(encoding="utf-8")
    indented = [line.split() for line in text.splitlines() if line.startswith("   python ")]
    return [*commands(page), *indented]


def test_the_commands_of_the_pages_run_and_write_what_they_say(folder: Path) -> None:
    said = {" ".join(command): run(command, folder) for page in PAGES for command in typed(page)}
    assert len(said) == 9
    for command, text in said.items():
        out = re.search(r"out=(\S+)", command)
        assert out and "what is taken for what" in text and "Row 1 as a record:" in text
        if "preview=true" in command:
            assert "Nothing was written" in text
        else:
            assert f"Next: python src/train.py experiment=given_feedback data=shards data.path={out[1]}" in text
    rated = [f.rating for r in records(folder / "data" / "antworten", "feedback") for t in r.dialogues[0].turns
             for f in t.feedback]  # fmt: skip
    assert set(rated) <= {1, 2, 3} and len(rated) == 7
    (review,) = records(folder / "data" / "reviews", "feedback")
    assert review.source == "reviews" and [d.turns[0].rating for d in review.dialogues] == [1, 1]


def test_a_preview_writes_nothing(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    run([*["python", "src/prepare.py", "source=rows", "path=answers.csv", "out=data/mine", "preview=true"]], folder)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["source=rlaifv"], "source=rlaifv: no such option. Did you mean rlaif_v?"),
        (["source=none.yaml"], "source=none.yaml: expected a file that says what the columns are"),
        (
            ["source=bad.yaml"],
            "bad.yaml: the configuration does not fit: colums: no such setting. Did you mean columns?",
        ),
        (["source=rows", "columns={img: image}"], "columns.img: no such setting. Did you mean columns.image?"),
        (["source=llava", "rating={from: [1, 5]}"], "rating=…: source=llava knows its columns"),
    ],
)
def test_what_is_mistyped_is_said_in_one_line(folder: Path, arguments: list[str], message: str) -> None:
    (folder / "bad.yaml").write_text(yaml.safe_dump({"colums": {}}))
    done = run_script(ROOT / "src" / "prepare.py", *arguments, "path=answers.csv", "out=o", cwd=folder)
    assert done.returncode and message in done.stderr and "Traceback" not in done.stderr
    assert not (folder / "o").exists()
