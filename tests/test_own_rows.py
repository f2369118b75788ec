"""`source=rows`: anybody's table, its columns by usual names or as they are stated, becomes all splits."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imports import import_table, json_lines, mapping_of, photo, photos, reasons, records, rejects
from pydantic import ValidationError
from test_sources import STRANGE

from dress.base.files import read_json
from dress.config.rows import RowMapping
from dress.evaluation.references import accuracy, exact, known_answers
from dress.record import Dialogue, Record
from dress.sources.own_rows import OwnRows
from dress.sources.protocol import Place, RowError, SourceError

OWN = [
    {"image": f"pic{n}.jpg", "question": "What is it?", "answer": f"A house {n}.", "feedback": f"No, a ball {n}.",
     "rating": n % 4 + 1, "better_answer": f"A ball {n}."}
    for n in range(10)
]  # fmt: skip


def table(folder: Path, *rows: dict[str, Any], name: str = "rows.jsonl") -> Path:
    """JSON lines, or CSV by its name, and an image for every name in a column `image`."""
    photos(folder / "images", *{row["image"] for row in rows if isinstance(row.get("image"), str)})
    if name.endswith(".csv"):
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
        return folder / name
    return json_lines(folder / name, rows)


def parquet(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def feedback_of(tmp_path: Path, *rows: dict[str, Any], **more: Any) -> list[Dialogue]:
    """The dialogues that rows of one image give."""
    out = tmp_path / "out"
    import_table(table(tmp_path / "in", *rows), out, held_out=0, **more)
    return [dialogue for record in records(out, "feedback") for dialogue in record.dialogues]


def ratings(dialogues: list[Dialogue]) -> list[int | None]:
    return [turn.rating for dialogue in dialogues for turn in dialogue.turns]


# --- all splits of one file --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_a_table_of_ten_rows_gives_every_split(tmp_path: Path, name: str) -> None:
    result = import_table(table(tmp_path / "in", *OWN, name=name), tmp_path / "out")
    assert (result.read, result.used) == (10, 10)
    assert result.written == {"align": 0, "sft": 9, "prompts": 9, "feedback": 9, "eval": 1}
    judged = {record.key: record for record in records(tmp_path / "out", "feedback")}
    (held_out,) = records(tmp_path / "out", "eval")
    assert held_out.key not in judged and held_out.dialogues[0].reference == f"A ball {held_out.key[3:]}."
    key = min(judged)
    number = int(key[3:])
    (dialogue,) = judged[key].dialogues
    first, last = dialogue.turns
    assert (first.user, first.assistant) == ("What is it?", f"A house {number}.")
    assert [(f.rating, f.critique, f.refinement) for f in first.feedback] == [
        (number % 4 + 1, f"No, a ball {number}.", f"No, a ball {number}.")
    ]
    assert (last.user, last.assistant, last.rating) == (f"No, a ball {number}.", f"A ball {number}.", 4)
    assert dialogue.reference == f"A ball {number}."
    taught = {record.key: record.dialogues for record in records(tmp_path / "out", "sft")}
    assert [turn.assistant for one in taught[key] for turn in one.turns] == [f"A ball {number}."]


def test_references_teach_and_answers_beside_them_do_not(tmp_path: Path) -> None:
    rows = [{"image": "a.jpg", "Question": "What?", "Model Answer": "A cat.", "Ground_Truth": "A dog."},
            {"image": "b.jpg", "Question": "And?", "Model Answer": "", "Ground_Truth": "A cow."},
            {"image": "c.jpg", "Question": "Here?", "Model Answer": "A hen.", "Ground_Truth": ""}]  # fmt: skip
    import_table(table(tmp_path / "in", *rows, name="r.csv"), tmp_path / "out", held_out=0)
    taught = [d.turns[0].assistant for record in records(tmp_path / "out", "sft") for d in record.dialogues]
    asked = [d.reference for record in records(tmp_path / "out", "prompts") for d in record.dialogues]
    assert taught == ["A dog.", "A cow.", "A hen."] and asked == ["A dog.", "A cow.", "A hen."]


PEOPLE = ["net", "net", "racket", "net "]


@pytest.mark.parametrize(
    ("name", "column", "cell"),
    [
        ("r.jsonl", "reference", PEOPLE),
        ("r.jsonl", "answers", [{"answer": one, "answer_id": n} for n, one in enumerate([*PEOPLE, "  "])]),
        ("r.parquet", "References", PEOPLE),
        ("r.csv", "reference", json.dumps(PEOPLE)),
        ("r.csv", "answers", json.dumps([{"answer": one} for one in PEOPLE])),
    ],
)
def test_of_several_references_the_first_teaches_and_all_measure(
    tmp_path: Path, name: str, column: str, cell: Any
) -> None:
    rows = [{"image": f"{n}.jpg", "question": "What is it?", column: cell} for n in range(7)]
    source = table(tmp_path / "in", *rows, name=name.replace("parquet", "jsonl"))
    if name.endswith("parquet"):
        source.unlink()
        source = parquet(tmp_path / "in" / name, *rows)
    result = import_table(source, tmp_path / "out")
    assert result.written == {"align": 0, "sft": 6, "prompts": 6, "feedback": 0, "eval": 1}
    (taught,) = records(tmp_path / "out", "sft")[0].dialogues
    (asked,) = records(tmp_path / "out", "eval")[0].dialogues
    assert (taught.turns[0].assistant, taught.reference, asked.reference) == ("net", None, "net")
    assert known_answers(asked) == known_answers(taught) == tuple(PEOPLE)
    assert accuracy("racket", known_answers(asked)) == pytest.approx(0.25) and exact("net", known_answers(asked))
    assert asked.extra.keys() == {"references"}


def test_a_text_that_looks_like_a_list_stays_a_text_where_lists_are_lists(tmp_path: Path) -> None:
    rows = [{"image": f"{n}.jpg", "question": "Which, as JSON?", "reference": '["cat", "dog"]'} for n in range(2)]
    import_table(table(tmp_path / "in", *rows), tmp_path / "out", held_out=0)
    (taught,) = records(tmp_path / "out", "sft")[0].dialogues
    assert (taught.turns[0].assistant, taught.extra) == ('["cat", "dog"]', {})


@pytest.mark.parametrize("cell", [[{"answer": 5}, {"answer": True}], [["a"], "b"]])
def test_a_reference_that_is_no_text_is_a_reject(tmp_path: Path, cell: Any) -> None:
    good = {"image": "a.jpg", "question": "What?", "reference": ["a", "b"]}
    path = table(tmp_path / "in", good, {**good, "reference": cell})
    assert import_table(path, tmp_path / "out", held_out=0).rejected == {"bad field": 1}


def test_captions_align_and_teach_descriptions(tmp_path: Path) -> None:
    rows = [{"image": f"{n}.jpg", "caption": [f"A dog {n}.", "An animal."], "when": n} for n in range(7)]
    result = import_table(table(tmp_path / "in", *rows), tmp_path / "out")
    assert result.written == {"align": 6, "sft": 6, "prompts": 6, "feedback": 0, "eval": 1}
    record = records(tmp_path / "out", "sft")[0]
    assert [d.turns[0].assistant for d in record.dialogues] == record.annotation.captions
    assert record.extra == {"when": int(record.key)}


def test_a_folder_keeps_its_publishers_test_split_apart(tmp_path: Path) -> None:
    rows = [{"image": f"{n}.jpg", "question": "What?", "answer": "A dog."} for n in range(8)]
    table(tmp_path / "in", *rows[:6], name="train.jsonl")
    table(tmp_path / "in", *rows[6:], name="test.jsonl")
    result = import_table(tmp_path / "in", tmp_path / "out", held_out=0)
    assert (result.written["sft"], result.written["eval"]) == (6, 2)


# --- columns -----------------------------------------------------------------------------------


def german(path: Path) -> Path:
    rows = [{"Bild": {"bytes": photo(n), "path": None}, "Frage": f"Was ist das {n}?", "Antwort": f"Ein Haus {n}.",
             "Bewertung": value, "Rückmeldung": "Gut.", "Quelle": "x"}
            for n, value in enumerate([0, 16, 17, 50, 83, 84, 100, 101])]  # fmt: skip
    return parquet(path, *rows)


COLUMNS = {"image": "Bild", "user": "Frage", "assistant": "Antwort", "rating": "Bewertung", "critique": "Rückmeldung"}


def test_parquet_with_image_bytes_german_names_and_a_rating_of_0_to_100(tmp_path: Path) -> None:
    file, out = german(tmp_path / "in" / "d.parquet"), tmp_path / "out"
    result = import_table(file, out, columns=COLUMNS, rating={"from": [0, 100]}, held_out=0)
    assert (result.used, result.rejected) == (7, {"bad rating": 1})
    dialogues = [d for record in records(out, "feedback") for d in record.dialogues]
    originals = {f.original.value: f.rating for d in dialogues for f in d.turns[0].feedback if f.original}
    assert originals == {0: 1, 16: 1, 17: 2, 50: 3, 83: 3, 84: 4, 100: 4}  # 50 is 2.5: rounded up
    assert all(d.extra == {"Quelle": "x"} and d.turns[0].feedback[0].critique == "Gut." for d in dialogues)
    stated = read_json(out / "import.json")
    assert stated["mapping"]["rating"] == {"from": [0, 100]} and stated["columns"]["image"] == [[["Bild"]]]
    with pytest.raises(SourceError, match="holds an import of other input or settings"):
        import_table(file, out, columns=COLUMNS, rating={"from": [100, 0]}, held_out=0)


def test_names_in_any_spelling_and_columns_that_are_stated_come_first(tmp_path: Path) -> None:
    row = {"image": "a.jpg", "Image Path": "b.jpg", "PROMPT": "What?", "Output": "A cat.", "STARS": "2",
           "comment": "No.", "Advice": "Look again.", "Improved Answer": "A dog."}  # fmt: skip
    photos(tmp_path / "in" / "images", "b.jpg")
    (dialogue,) = feedback_of(tmp_path, row, columns={"image": "Image Path"})
    assert [turn.user for turn in dialogue.turns] == ["What?", "Look again."]
    assert dialogue.turns[0].feedback[0].critique == "No." and dialogue.extra == {"image": "a.jpg"}


def test_a_null_in_columns_leaves_a_usual_name_alone(tmp_path: Path) -> None:
    row = {"image": "a.jpg", "question": "What?", "answer": "A cat.", "rating": "unknown"}
    import_table(table(tmp_path / "in", row), tmp_path / "out", columns={"rating": None}, held_out=0)
    assert records(tmp_path / "out", "sft")[0].dialogues[0].extra == {"rating": "unknown"}


def test_fields_inside_of_columns_and_of_texts_with_json(tmp_path: Path) -> None:
    row = {"image": "a.jpg", "meta": {"ask": "What?", "by": "me"},
           "text": json.dumps({"said": {"answer": "A cat."}, "lang": "en"}), "scores": [{"n": 2}]}  # fmt: skip
    columns = {"user": "meta.ask", "assistant": "text.said.answer", "rating": "scores.0.n", "critique": "none?"}
    (dialogue,) = feedback_of(tmp_path, row, columns=columns)
    assert (dialogue.turns[0].user, dialogue.turns[0].assistant, ratings([dialogue])) == ("What?", "A cat.", [2])
    assert dialogue.extra == {"meta": {"by": "me"}, "text": {"lang": "en"}}


def test_pairs_are_two_rated_answers_and_ties_are_not_rated(tmp_path: Path) -> None:
    row = {"image": "a.jpg", "question": "What?", "chosen": "A dog.", "rejected": "A cat.", "chosen_reason": "Right.",
           "rejected_reason": "Wrong.", "even": "false"}  # fmt: skip
    more = row | {"image": "b.jpg", "even": "true"}
    dialogues = feedback_of(tmp_path, row, more, columns={"tie": "even"}, criterion="honesty")
    assert [(d.turns[0].assistant, d.turns[0].critique) for d in dialogues[:2]] == [
        ("A dog.", "Right."), ("A cat.", "Wrong.")]  # fmt: skip
    assert ratings(dialogues) == [4, 1, None, None] and {d.criterion for d in dialogues} == {"honesty"}
    assert [d.turns[0].extra["pair"] for d in dialogues] == ["chosen", "rejected", "tie", "tie"]


@pytest.mark.parametrize(
    "row",
    [
        {"answers": ["A cat.", "A dog."], "scores": [1, 4], "rationales": ["No.", "Yes."]},
        {"answer_1": "A cat.", "answer_2": "A dog.", "rating_1": 1, "rating_2": 4, "comment 1": "No.",
         "comment 2": "Yes."},
    ],
)  # fmt: skip
def test_several_answers_each_have_their_score(tmp_path: Path, row: dict[str, Any]) -> None:
    dialogues = feedback_of(tmp_path, {"image": "a.jpg", "question": "What?"} | row)
    assert [(d.turns[0].assistant, d.turns[0].critique) for d in dialogues] == [("A cat.", "No."), ("A dog.", "Yes.")]
    assert ratings(dialogues) == [1, 4] and all(d.extra == {} for d in dialogues)


def test_lists_of_other_lengths_are_rejected(tmp_path: Path) -> None:
    rows = [{"image": f"{n}.jpg", "question": "What?", "answers": ["A.", "B."], "scores": [1, 2, 3][: n + 1]}
            for n in range(3)]  # fmt: skip
    result = import_table(table(tmp_path / "in", *rows), tmp_path / "out", held_out=0)
    assert result.rejected == {"bad field": 2}
    assert rejects(tmp_path / "out")[0]["detail"] == "scores: expected a list of 2 values, got [1]"


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "<image>\nWhat?"},
         {"role": "assistant", "content": "A dog."}, {"role": "user", "content": "Sure?"},
         {"role": "assistant", "content": "Yes."}],
        json.dumps([{"from": "system", "value": "Be brief."}, {"from": "human", "value": "What?\n<image>"},
                    {"from": "gpt", "value": "A dog."}, {"from": "human", "value": "Sure?"},
                    {"from": "gpt", "value": "Yes."}]),
    ],
)  # fmt: skip
def test_conversations_are_turns_and_the_last_answer_is_the_judged_one(tmp_path: Path, messages: Any) -> None:
    row = {"image": "a.jpg", "messages": messages, "score": 3, "better_answer": "Quite.", "rationale": "Curt."}
    (dialogue,) = feedback_of(tmp_path, row)
    assert dialogue.system == "Be brief." and dialogue.reference is None
    assert [(t.user, t.assistant) for t in dialogue.turns] == [
        ("What?", "A dog."),
        ("Sure?", "Yes."),
        ("Curt.", "Quite."),
    ]
    assert ratings([dialogue]) == [None, 3, 4]


def test_a_criterion_is_a_word_of_a_column(tmp_path: Path) -> None:
    rows = [{"image": f"{n}.jpg", "question": "What?", "answer": "A.", "rating": 1, "criterion": word}
            for n, word in enumerate(["Honesty", "safe", "taste"])]  # fmt: skip
    mapping = RowMapping.model_validate({"criteria": {"safe": "harmlessness"}})
    dialogues = feedback_of(tmp_path, *rows, mapping=mapping)
    assert [d.criterion for d in dialogues] == ["honesty", "harmlessness"]
    assert reasons(tmp_path / "out") == ["unknown criterion"]


# --- ratings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "values"),
    [
        ({"from": [1, 5]}, {1: 1, "2": 2, 3: 3, 4.0: 3, 5: 4}),
        ({"from": [1, 10]}, {1: 1, 2: 1, 4: 2, 5.5: 3, 8: 3, 9: 4}),
        ({"from": [6, 1]}, {6: 1, 1: 4, 2: 3, 3: 3, 4: 2}),
        ({"map": {"good": 4, "so so": 2, "1": 1}}, {"Good": 4, "so so": 2, 1: 1}),
        (None, {1: 1, "4": 4, 2.0: 2}),
    ],
)
def test_ratings_are_mapped_and_kept(tmp_path: Path, scale: Any, values: dict[Any, int]) -> None:
    rows = [{"image": f"{n}.jpg", "question": "?", "answer": "A.", "rating": value} for n, value in enumerate(values)]
    dialogues = feedback_of(tmp_path, *rows, rating=scale)
    assert ratings(dialogues) == list(values.values())
    kept = [f.original.value if f.original else f.extra.get("rating") for d in dialogues for f in d.turns[0].feedback]
    assert kept == ([None] * len(values) if scale is None else [float(v) if "from" in scale else v for v in values])


def test_what_is_no_rating_is_a_reject_with_its_reason(tmp_path: Path) -> None:
    bad = ["N/A", "4/5", "", 6, True, "five", [3], {"a": 1}, "nan", "1e999"]
    rows = [{"image": f"{n}.jpg", "question": "?", "answer": "A.", "rating": value} for n, value in enumerate(bad)]
    good = {"image": "g.jpg", "question": "?", "answer": "A.", "rating": 2}
    none = {"image": "n.jpg", "question": "?", "answer": "A.", "rating": None, "feedback": "Fine."}
    result = import_table(table(tmp_path / "in", good, none, *rows), tmp_path / "out", rating={"from": [1, 5]})
    assert result.rejected == {"bad rating": 9, "empty rating": 1}


@pytest.mark.parametrize(
    ("values", "advice"),
    [
        ([1, 5], r"expected ratings 1-4 in rating, got 1 to 5: rating=\{from: \[1, 5\]\}"),
        ([0, 100], r"got 0 to 100: rating=\{from: \[0, 100\]\}"),
        ([-2, 7], r"got -2 to 7: rating=\{from: \[-2, 7\]\}"),
        (
            ["good", "bad"],
            r"got words \(good, bad\): 'rating=\{map: \{good: N, bad: N\}\}', N from 1 \(worst\) to 4 \(best\)",
        ),
    ],
)
def test_ratings_of_another_scale_need_one_before_anything_is_written(
    tmp_path: Path, values: list[Any], advice: str
) -> None:
    rows = [{"image": "a.jpg", "question": "?", "answer": f"{v}.", "rating": v} for v in values]
    with pytest.raises(SourceError, match=advice):
        import_table(table(tmp_path / "in", *rows), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


# --- what cannot be taken ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "columns", "message"),
    [
        ({"image": "a.jpg", "question": "?", "Rückmeldung": "No."}, {"critique": "Ruckmeldung"},
         r"columns.critique=Ruckmeldung: no such column .*Did you mean Rückmeldung\? Its columns: image, question"),
        ({"image": "a.jpg", "question": {"a": 1}}, {"user": "question.b"}, r"columns.user=question.b: no such column"),
        ({"image": "a.jpg", "wo": "?"}, None, r"expected a question, a conversation or a caption.*columns=\{image: "),
        ({"Bild": "a.jpg", "question": "?"}, None, r"column 'Bild' holds images.*columns=\{image: 'Bild'\}"),
    ],
)  # fmt: skip
def test_columns_that_are_missing_or_unclear_are_said(
    tmp_path: Path, row: dict[str, Any], columns: Any, message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        import_table(table(tmp_path / "in", row), tmp_path / "out", columns=columns)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"rating": {"from": [1, 5], "map": {"a": 1}}}, {"rating": {"from": [2, 2]}}, {"rating": {"map": {"a": 5}}},
        {"columns": {"img": "a"}}, {"columns": {"image": []}}, {"pair": [5, 1]}, {"unpack": "anything"},
    ],
)  # fmt: skip
def test_a_mapping_is_closed(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RowMapping.model_validate(wrong)


def test_columns_are_for_tables_only(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"columns=…: source=llava knows its columns"):
        import_table(tmp_path, tmp_path / "out", source="llava", columns={"user": "q"})


@settings(max_examples=150)
@given(role=st.sampled_from(sorted({*OWN[0], "chosen", "rejected", "messages", "criterion", "caption"})), value=STRANGE)
def test_a_cell_of_any_kind_is_used_or_rejected(role: str, value: Any) -> None:
    source = OwnRows(mapping_of("rows"))
    row = OWN[0] | {"chosen": "A.", "rejected": "B.", "criterion": "honesty", "caption": "C."}
    source.meaning = {name: (((column,),),) for name, column in {
        "image": "image", "user": "question", "assistant": "answer", "critique": "feedback", "rating": "rating",
        "better_answer": "better_answer", "chosen": "chosen", "rejected": "rejected", "criterion": "criterion",
        "captions": "caption", "conversations": "messages"}.items()}  # fmt: skip
    try:
        for part in source.parts(row | {role: value}, Place("r.jsonl", 1)):
            Record(key="k", dialogues=part.dialogues, annotation=part.annotation, extra=part.extra).dump()
    except (RowError, ValidationError) as error:
        assert str(error)


# --- what would be lost without a word ---------------------------------------------------------


def test_feedback_without_an_answer_and_pairs_without_a_difference_are_rejected(tmp_path: Path) -> None:
    rows = [{"image": "a.jpg", "question": "q", "answer": "", "rating": 2, "feedback": "No."},
            {"image": "b.jpg", "question": "q", "answer": "An answer.", "rating": 2, "feedback": "No."}]  # fmt: skip
    out = tmp_path / "answers"
    result = import_table(table(tmp_path / "in", *rows, name="r.csv"), out, held_out=0)
    assert (result.used, result.rejected) == (1, {"no answer": 1})
    assert rejects(out)[0]["detail"] == "answer: expected an answer beside rating, got none"
    several = {"image": "a.jpg", "question": "q", "answer_1": "One.", "answer_2": None, "score_1": 4, "score_2": 1}
    with pytest.raises(SourceError, match="expected 2 answers, as many as are judged, got none as 2"):
        import_table(table(tmp_path / "several", several), tmp_path / "none")
    pairs = [{"image": "a.jpg", "question": "q", "chosen": "One.", "rejected": "One."},
             {"image": "b.jpg", "question": "q", "chosen": "One.", "rejected": "Two."}]  # fmt: skip
    result = import_table(table(tmp_path / "pairs", *pairs), tmp_path / "differ", held_out=0)
    assert (result.used, result.rejected) == (1, {"no difference": 1})
    assert "chosen and rejected are the same text" in rejects(tmp_path / "differ")[0]["detail"]


def test_rows_without_a_picture_beside_others_are_counted(tmp_path: Path) -> None:
    rows = [
        {"image": name, "question": "q", "answer": f"A {n}.", "rating": 4} for n, name in enumerate(["a.jpg", None])
    ]
    result = import_table(table(tmp_path / "in", *rows), tmp_path / "out", held_out=0)
    assert result.used == 2 and result.noted == {"rows without a picture, used as text only": 1}
    texts = [{"question": "q", "answer": "A."}]
    assert not import_table(table(tmp_path / "texts", *texts), tmp_path / "plain", held_out=0).noted


@pytest.mark.parametrize(
    ("row", "reference"),
    [
        ({"chosen": "Good.", "rejected": "Bad."}, "Good."),
        ({"answer_1": "Bad.", "answer_2": "Good.", "score_1": 1, "score_2": 4}, "Good."),
        ({"answer": "Fair.", "rating": 3}, None),
        ({"answer": "Top.", "rating": 4, "reference": "Known."}, "Known."),
    ],
)
def test_the_best_answer_is_what_held_out_questions_are_measured_against(
    tmp_path: Path, row: dict[str, Any], reference: str | None
) -> None:
    rows = [{"image": f"{n}.jpg", "question": "q"} | row for n in range(7)]
    result = import_table(table(tmp_path / "in", *rows), tmp_path / "out")
    (held_out,) = records(tmp_path / "out", "eval")
    (question,) = held_out.dialogues
    assert (question.reference, question.turns[0].assistant) == (reference, None)
    assert result.held["references"] == int(reference is not None)
    again = import_table(tmp_path / "in" / "rows.jsonl", tmp_path / "out")
    assert again.unchanged and again.held == result.held
