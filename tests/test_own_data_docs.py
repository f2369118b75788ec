"""docs/own_data.md and docs/public_sets.md: every command runs on small tables in the shapes that they name."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from documented import ROOT, commands
from imports import json_lines, photo, photos, records
from scripts import run_script
from test_command_line import FAST
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
    row = {"picture": "a.jpg", "asked": "?", "answer_a": "A.", "answer_b": "B.", "use_a": 1, "use_b": 10,
           "why_a": "No.", "why_b": "Yes.", "safer": 1}  # fmt: skip
    json_lines(tmp_path / "raw" / "reviews.jsonl", [row])
    (mapping,) = re.findall(r"```yaml\n(.*?)```", (ROOT / PAGES[1]).read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "reviews.yaml").write_text(mapping)
    return tmp_path


def typed(page: str) -> list[list[str]]:
    """Also commands in an indented block."""
    text = (ROOT / page).read_text(encoding="utf-8")
    indented = [line.split() for line in text.splitlines() if line.startswith("   python ")]
    return [command for command in [*commands(page), *indented] if command[1] == "src/prepare.py"]


def run(command: list[str], folder: Path) -> str:
    done = run_script(ROOT / command[1], *command[2:], cwd=folder)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
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


@pytest.mark.slow
def test_from_a_table_to_figures_and_an_answer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's own way, with the command that the import names."""
    page = (ROOT / PAGES[0]).read_text(encoding="utf-8")
    first, train = commands(PAGES[0])[1], next(c for c in commands(PAGES[0]) if c[1] == "src/train.py")
    following = run(first, folder).partition("Next: ")[2].splitlines()[0]
    assert shlex.split(following) == train
    run([*train, *FAST], folder)
    figures = json.loads((folder / "logs" / "latest" / "metrics.json").read_text())["dress"]
    assert {"reference/exact_match", "reference/vqa_accuracy", "reference/rouge_l"} <= figures.keys()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(code.replace('"pic0.png"', '"images/pic0.jpg"').replace("print(", "text = ("), names)
    assert isinstance(names["text"], str)


def test_pairs_end_with_the_command_of_the_page(tmp_path: Path) -> None:
    """And that command trains on them, and measures against what was chosen."""
    pairs = [{"image": f"{n}.jpg", "question": "?", "chosen": "Yes.", "rejected": "No."} for n in range(7)]
    table(tmp_path, *pairs, name="pairs.jsonl")
    (imported,) = (c for c in commands(PAGES[0]) if "path=pairs.jsonl" in c)
    train = [c for c in commands(PAGES[0]) if c[1] == "src/train.py"][1]
    said = run(imported, tmp_path)
    assert shlex.split(said.partition("Next: ")[2].splitlines()[0]) == train and "1 of 1" in said
    assert "learns nothing" not in (said := run([*train, *FAST], tmp_path)).replace("phase refinement learns", "")
    figures = json.loads((tmp_path / "logs" / "latest" / "metrics.json").read_text())["dress"]
    assert figures["reference/rouge_l"]["n"] == 1 and "rating" in said


def test_a_preview_writes_nothing(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    run(commands(PAGES[0])[0], folder)
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
