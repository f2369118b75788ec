"""Suites on tables: CSV, TSV, Parquet, and how answers find their questions, everywhere the same way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from suite_files import evaluate, evaluate_nothing, lines

from dress.data.shards import Shards
from dress.evaluation.rows import read_rows
from dress.record import Dialogue, Record, Turn
from dress.rollout.answers_file import FileResponder
from dress.rollout.responder import NoAnswer, OpenTurn, Sampling

RULES = {"kind": "rules"}
WHAT = "What is it?"


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    """The rows in the format that the name asks for."""
    names = dict.fromkeys(name for row in rows for name in row)
    table = pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows])
    if path.suffix == ".parquet":
        pa.parquet.write_table(table, path)
    elif path.suffix in (".csv", ".tsv"):
        options = pa.csv.WriteOptions(delimiter="\t" if path.suffix == ".tsv" else ",")
        pa.csv.write_csv(table, path, options)
    else:
        lines(path, *rows)
    return str(path)


def asked(name: str | None = "question_id") -> list[dict[str, Any]]:
    named = [{"image": f"pic{n}.png", "question": WHAT, "answer": answer} for n, answer in enumerate(("red", "blue"))]
    return [row if name is None else {name: f"q{n}", **row} for n, row in enumerate(named)]


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "jsonl"])
@pytest.mark.parametrize("name", ["question_id", "id", "key", None])
def test_answers_find_their_questions_in_every_format(tmp_path: Path, ending: str, name: str | None) -> None:
    questions = write(tmp_path / f"q.{ending}", asked(name))
    found = [{"image": "pic1.png", "question": WHAT}, {"image": "./pic0.png", "question": f"Question: {WHAT} Answer:"}]
    rows = found if name is None else [{name: "q1"}, {name: "q0"}]
    answers = [{**row, "answer": text} for row, text in zip(rows, ("Blue.", "green"), strict=True)]
    responder = write(tmp_path / f"a.{ending}", answers)
    result = evaluate(tmp_path / "out", suite="vqa", questions=questions, responder=responder, judge=RULES)
    assert (result["accuracy"], result["n"], result["failures"]) == (0.5, 2, 0)


def test_words_alone_find_the_only_question_that_has_them(tmp_path: Path) -> None:
    questions = [{"question": "Red or blue?", "answer": "red"}, {"question": "Cat or dog?", "answer": "dog"}]
    answers = [{"question": "Cat or dog?", "answer": "Dog"}, {"question": "Who?", "answer": "me"}]
    files = {"questions": write(tmp_path / "q.csv", questions), "responder": write(tmp_path / "a.csv", answers)}
    found = evaluate(tmp_path / "out", suite="vqa", judge=RULES, **files)
    assert (found["accuracy"], found["failed"]) == (1, {"no answer": 1, "unknown question": 1})


def test_known_answers_may_lie_in_a_table_of_their_own(tmp_path: Path) -> None:
    questions = [{name: row[name] for name in ("image", "question")} for row in asked()]
    files = {
        "questions": write(tmp_path / "q.tsv", questions), "annotations": write(tmp_path / "n.parquet", asked(None)),
        "responder": write(tmp_path / "a.csv", [{"image": "pic0.png", "answer": "Red"}]),
    }  # fmt: skip
    found = evaluate(tmp_path / "out", suite="vqa", judge=RULES, **files)
    assert (found["accuracy"], found["n"], found["failed"]) == (1, 1, {"no answer": 1})


def test_chair_and_pope_read_tables(tmp_path: Path) -> None:
    captions = write(tmp_path / "c.csv", [{"image_id": "1", "caption": "A dog, a cat."}])
    objects = lines(tmp_path / "o.json", {"1": ["dog"]})
    assert evaluate(tmp_path / "chair", suite="chair", captions=captions, objects=objects)["chair_i"] == 0.5
    labels = [{"image": "1.jpg", "text": "Is there a dog?", "label": "yes"}]
    files = {
        "questions": write(tmp_path / "q.csv", [{"key": "a", **labels[0]}]),
        "labels": write(tmp_path / "l.csv", labels),
        "answers": write(tmp_path / "a.tsv", [{"key": "a", "answer": "Yes."}]),
    }  # fmt: skip
    assert evaluate(tmp_path / "pope", suite="pope", **files)["accuracy"] == 1
    write(tmp_path / "a.tsv", [{"key": "b", "answer": "Yes."}])
    with pytest.raises(ValueError, match=r"answers=.*a\.tsv.*n = 0.*question_id a.*the rows are of question_id b"):
        evaluate(tmp_path / "pope", suite="pope", **files)


def test_a_suite_that_counts_nothing_says_what_was_looked_for(tmp_path: Path) -> None:
    questions = write(tmp_path / "q.csv", asked())
    answers = write(tmp_path / "a.csv", [{"question_id": f"x{n}", "answer": "red"} for n in range(5)])
    files = {"suite": "vqa", "questions": questions, "judge": RULES}
    with pytest.raises(ValueError) as told:
        evaluate(tmp_path / "out", responder=answers, **files)
    message = str(told.value)
    assert message.startswith(f"responder={answers}: none of its 5 rows answers one of the 2 questions (n = 0)")
    assert "looked for question_id q0, question_id q1;" in message and "\n" not in message
    assert message.endswith("the rows are of question_id x0, question_id x1, question_id x2 …")
    empty = write(tmp_path / "e.csv", [{"question_id": f"q{n}", "answer": " "} for n in range(2)])
    assert evaluate_nothing(tmp_path / "empty", responder=empty, **files)["failed"] == {"empty answer": 2}


def test_damaged_rows_of_a_table_are_named(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text('question_id,question\n1,a\n2,b,c,d\n3,"e\n')
    rows = read_rows("questions", str(tmp_path / "q.csv"))
    assert rows[0].data == {"question_id": "1", "question": "a"} and rows[0].where == "q.csv:1"
    assert all(row.damage for row in rows[1:]) and len(rows) == 3
    with pytest.raises(FileNotFoundError, match=r"questions=.*none\.parquet: expected a file, found none"):
        read_rows("questions", str(tmp_path / "none.parquet"))
    (tmp_path / "x.csv").write_bytes(b"\x1f\x8b123")
    with pytest.raises(ValueError, match=r"questions=.*x\.csv: expected text, got a file compressed"):
        read_rows("questions", str(tmp_path / "x.csv"))


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_answers_to_records_are_found_by_key_or_by_their_own_number(tmp_path: Path, ending: str) -> None:
    rows: list[dict[str, Any]] = [
        {"key": "a", "question": WHAT, "answer": "one"},
        {"id": "7", "question": None, "answer": "two"},
    ]
    responder = FileResponder(Path(write(tmp_path / f"a.{ending}", rows)))
    dialogues = [Dialogue(turns=[Turn(user=WHAT)]), Dialogue(turns=[Turn(user="Why?")], extra={"id": 7})]
    record = Record(key="a", dialogues=[*dialogues, Dialogue(turns=[Turn(user="Who?")])])
    open_turns = [OpenTurn(record, dialogue, None, "", 0) for dialogue in record.dialogues]
    assert responder.unmatched == "'a', '7'"
    answers = responder.answer(open_turns, [], Sampling(8, 8))
    assert [str(one) for one in answers[:2]] == ["one", "two"] and isinstance(answers[2], NoAnswer)
    assert responder.unused == [] and responder.unmatched is None


def test_an_interaction_of_which_no_row_fits_says_so(tmp_path: Path, shapes_folder: Path) -> None:
    answers = write(tmp_path / "a.csv", [{"key": "nobody", "answer": "one"}])
    key = Shards(shapes_folder / "eval")[0][0].key
    with pytest.raises(ValueError, match=rf"n = 0.*{key}.*the rows are of 'nobody'"):
        evaluate(
            tmp_path / "out", suite="interaction", responder=answers, shards=str(shapes_folder / "eval"), records=2,
            annotator=RULES, judge=RULES,
        )  # fmt: skip
