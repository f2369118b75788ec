"""LVLM_NLF: every row comes back as it was, from the record and through shards."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imports import do_import
from PIL import Image
from pydantic import ValidationError
from rich.console import Console

from dress.base.files import read_json, read_lines
from dress.config.tasks import Export
from dress.data.shards import Shards
from dress.exports.export_task import run as run_export
from dress.record import Dialogue, Feedback, Turn
from dress.sources.destination import ImportResult
from dress.sources.lvlm_nlf import LVLMNLF, row_of
from dress.sources.protocol import Place, RowError

FILES = ("helpfulness_nlf.jsonl", "honesty_nlf.jsonl", "hallucination_nlf.jsonl", "harmlessness_nlf.jsonl")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
SAID = TEXT.filter(lambda text: text.strip())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
RATING = st.sampled_from(["1", "2", "3", "4", 1, 4, 2.0, " 3", "4.0", None])
ODD = ("5", "0", 2.5, "N/A", "", True, ["4"], "3/4", {}, float("nan"))
UNKNOWN = TEXT.filter(lambda name: name not in ("image_id", "caption", "interaction", "user", "model", "rating"))


def mixed(draw: Any, fields: dict[str, Any], optional: list[tuple[str, Any]]) -> dict[str, Any]:
    """The fields and some of the optional ones, in any order."""
    chosen = draw(st.lists(st.sampled_from(optional), unique_by=lambda pair: pair[0])) if optional else []
    whole = fields | {name: draw(values) for name, values in chosen} | draw(st.dictionaries(UNKNOWN, JSON, max_size=2))
    return {name: whole[name] for name in draw(st.permutations(list(whole)) | st.just(list(whole)))}


@st.composite
def turns(draw: Any) -> dict[str, Any]:
    optional = [("rating", RATING), ("critique NLF", TEXT | st.none()), ("critique_NLF", TEXT | st.none())]
    return mixed(draw, {"user": draw(SAID), "model": draw(TEXT)}, optional)


@st.composite
def rows(draw: Any, images: tuple[str, ...] = ("000000151112.jpg", "a.b.png")) -> dict[str, Any]:
    interaction = draw(st.lists(turns(), min_size=1, max_size=3))
    fields = {"image_id": draw(st.sampled_from(images)), "interaction": interaction}
    return mixed(draw, fields, [("caption", TEXT | st.lists(TEXT, max_size=2) | st.none())])


def dialogue_of(row: Any, file: str = FILES[3]) -> Dialogue:
    (part,) = LVLMNLF().parts(row, Place(file, 1))
    return part.dialogues[0]


@settings(max_examples=120, deadline=None)
@given(rows())
def test_a_row_comes_back_as_it_was(row: dict[str, Any]) -> None:
    dialogue = Dialogue.model_validate_json(dialogue_of(row).model_dump_json())
    assert json.dumps(row_of(row["image_id"], dialogue)) == json.dumps(row)


def usual(**changes: Any) -> dict[str, Any]:
    first = {"user": "How?", "model": "No.", "rating": "2", "critique NLF": "Curt."} | changes
    second = {"user": "Say why.", "model": "It hurts.", "rating": "4", "critique NLF": "Safe response."}
    return {"image_id": "000000151112.jpg", "caption": "A bus", "interaction": [first, second]}


def test_the_parts_of_a_row_find_their_places() -> None:
    (part,) = LVLMNLF().parts(usual(), Place("harmlessness_nlf.jsonl", 7))
    assert (part.key, part.source, part.image) == ("coco-000000151112", "lvlm_nlf/harmlessness", "000000151112.jpg")
    assert part.annotation.captions == ["A bus"]
    first, second = part.dialogues[0].turns
    said = first.feedback[0]
    assert (said.criterion, said.rating, said.critique) == ("harmlessness", 2, "Curt.")
    assert said.refinement == second.user == "Say why."
    assert second.feedback[0].refinement is None
    assert not first.extra and not second.extra  # nothing unusual, nothing kept
    assert part.dialogues[0].extra["lvlm_nlf"] == {"file": "harmlessness_nlf.jsonl", "row": 7, "caption": "A bus"}


def test_the_file_says_the_criterion() -> None:
    said = [dialogue_of(usual(), file).criterion for file in FILES]
    assert said == ["helpfulness", "honesty", "honesty", "harmlessness"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([usual()], "bad field"),
        (usual() | {"image_id": None}, "bad field"),
        (usual() | {"image_id": ["000000151112.jpg"]}, "bad field"),
        (usual() | {"image_id": "../x.jpg"}, "bad image name"),
        (usual() | {"caption": 5}, "bad field"),
        (usual() | {"caption": ["A bus", None]}, "bad field"),
        (usual() | {"interaction": []}, "bad field"),
        (usual() | {"interaction": "none"}, "bad field"),
        (usual() | {"interaction": ["none"]}, "bad field"),
        (usual(user=" "), "empty text"),
        (usual(user=None), "bad field"),
        (usual(model=None), "bad field"),
        *((usual(rating=odd), "bad rating") for odd in ODD),
        (usual(model="half \ud800"), "broken text"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_rejected_by_reason(row: Any, reason: str) -> None:
    with pytest.raises(RowError) as caught:
        dialogue_of(row)
    assert caught.value.reason == reason and caught.value.detail


def test_a_critique_that_is_no_text_does_not_fit() -> None:
    with pytest.raises(ValidationError, match="critique"):
        dialogue_of(usual(**{"critique NLF": ["Curt."]}))


def test_a_number_that_is_not_finite_does_not_fit() -> None:
    with pytest.raises(ValidationError, match="finite"):
        dialogue_of(usual() | {"score": float("inf")})


def test_a_rating_that_was_changed_is_told_and_an_unusual_spelling_otherwise_stays() -> None:
    dialogue = dialogue_of(usual(rating=2.0))
    assert row_of("x.jpg", dialogue)["interaction"][0]["rating"] == 2.0
    dialogue.turns[0].feedback[0].rating = 3
    assert row_of("x.jpg", dialogue)["interaction"][0]["rating"] == "3"


def test_a_dialogue_from_elsewhere_makes_a_usual_row() -> None:
    said = [
        Feedback(criterion="honesty", rating=1, critique="Invents."),
        Feedback(criterion="helpfulness", rating=3, critique="Kind."),
    ]
    turns_ = [Turn(user="Q", assistant="A", feedback=said), Turn(user="Again", assistant="B")]
    row = row_of("x.jpg", Dialogue(criterion="helpfulness", turns=turns_), "A bus")
    first = {"user": "Q", "model": "A", "rating": "3", "critique NLF": "Kind."}
    assert row == {"image_id": "x.jpg", "caption": "A bus", "interaction": [first, {"user": "Again", "model": "B"}]}
    assert list(row["interaction"][0]) == list(first)


def test_files_are_found_by_name_here_or_in_the_publishers_folder(tmp_path: Path) -> None:
    (tmp_path / "LVLM_NLF").mkdir()
    for name in (*FILES[1:], "LVLM_NLF/helpfulness_nlf.jsonl", "other.jsonl"):
        (tmp_path / name).write_text("")
    found = [table.file.relative_to(tmp_path).as_posix() for table in LVLMNLF().row_files(tmp_path)]
    assert sorted(found) == ["LVLM_NLF/helpfulness_nlf.jsonl", *sorted(FILES[1:])]


# --- through shards ----------------------------------------------------------------------------


def write_rows(folder: Path, tables: dict[str, list[Any]], images: tuple[str, ...]) -> None:
    (folder / "images").mkdir(parents=True)
    for name in images:
        Image.new("RGB", (8, 8)).save(folder / "images" / name, "PNG")
    for name, table in tables.items():
        (folder / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table), "utf-8")


def imported(path: Path, out: Path, **more: Any) -> ImportResult:
    return do_import("lvlm_nlf", path, out, **more)


def exported(path: Path, out: Path) -> dict[str, list[str]]:
    given_ = Export(task="export", path=str(path), out=str(out), format="lvlm_nlf")
    run_export(given_, Console(file=io.StringIO()))
    return {file.name: [json.dumps(row) for row in read_lines(file)] for file in sorted(out.glob("*_nlf.jsonl"))}


IMAGES = ("000000000001.jpg", "000000000002.jpg", "other.png")
TABLES = st.fixed_dictionaries({
    name: st.lists(rows(IMAGES) | st.sampled_from([usual(rating=odd) for odd in ODD[:4]]), max_size=6)
    for name in ("helpfulness_nlf.jsonl", "hallucination_nlf.jsonl", "harmlessness_nlf.jsonl")
})  # fmt: skip


def odd(row: dict[str, Any]) -> bool:
    return any(turn.get("rating") in ODD[:4] for turn in row["interaction"])


@settings(max_examples=12, deadline=None)
@given(TABLES.filter(lambda tables: not all(odd(row) for table in tables.values() for row in table)))
def test_lvlm_nlf_to_shards_to_lvlm_nlf_loses_nothing(tables: dict[str, list[Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        write_rows(base / "in", tables, IMAGES)
        result = imported(base / "in", base / "shards")
        kept = {name: [json.dumps(row) for row in table if not odd(row)] for name, table in tables.items()}
        total = sum(map(len, tables.values()))
        assert (result.read, result.used) == (total, sum(map(len, kept.values())))
        assert sum(result.rejected.values()) == total - result.used
        assert exported(base / "shards", base / "out") == {name: table for name, table in sorted(kept.items()) if table}
        assert sum(len(r.dialogues) for r, _ in Shards(base / "shards" / "feedback")) == result.used


def test_rejects_that_were_repaired_come_back_in_their_rows(tmp_path: Path) -> None:
    first, second = usual(), usual(rating="six")
    write_rows(tmp_path / "in", {"harmlessness_nlf.jsonl": [second, first, second, first]}, IMAGES)
    write_rows(tmp_path / "photos", {}, ("000000151112.jpg",))
    photos = {"images": str(tmp_path / "photos" / "images")}
    assert imported(tmp_path / "in", tmp_path / "one", **photos).rejected == {"bad rating": 2}
    rejects = tmp_path / "one" / "rejects.jsonl"
    rejects.write_text(rejects.read_text().replace("six", "3"))
    imported(rejects, tmp_path / "two", **photos)
    shutil.copytree(tmp_path / "one" / "feedback", tmp_path / "both" / "a")
    shutil.copytree(tmp_path / "two" / "feedback", tmp_path / "both" / "b")
    repaired = usual(rating="3")
    whole = [json.dumps(row) for row in (repaired, first, repaired, first)]
    assert exported(tmp_path / "both", tmp_path / "out") == {"harmlessness_nlf.jsonl": whole}
    assert {d.criterion for r, _ in Shards(tmp_path / "both" / "b") for d in r.dialogues} == {"harmlessness"}


def test_a_row_that_stands_in_two_splits_is_written_once(tmp_path: Path) -> None:
    write_rows(tmp_path / "in", {"honesty_nlf.jsonl": [usual(), usual()]}, ())
    imported(tmp_path / "in", tmp_path / "d", allow_missing_images=True)
    shutil.copytree(tmp_path / "d" / "feedback", tmp_path / "d" / "more")
    assert exported(tmp_path / "d", tmp_path / "back") == {"honesty_nlf.jsonl": [json.dumps(usual())] * 2}
    reasons = [left["reason"] for left in read_json(tmp_path / "back" / "export.json")["left_out"]]
    assert reasons == [f"row {number} of honesty_nlf.jsonl once more" for number in (1, 2)]


def test_images_are_not_needed_to_keep_the_rows(tmp_path: Path) -> None:
    write_rows(tmp_path / "in", {"honesty_nlf.jsonl": [usual(), usual()]}, ())
    assert imported(tmp_path / "in", tmp_path / "out", allow_missing_images=True).used == 2
    again = exported(tmp_path / "out", tmp_path / "back")
    assert again == {"honesty_nlf.jsonl": [json.dumps(usual())] * 2}
