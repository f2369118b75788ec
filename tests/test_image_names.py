"""One image is one record however its name is written, and a name that is not found says why."""

from __future__ import annotations

import io
import unicodedata
from pathlib import Path

import pytest
from conftest import composed
from imports import content, do_import, json_lines, photo, photos, records, rejects
from PIL import Image
from rich.console import Console

from dress.data.shards import write_shards
from dress.data.stream import open_split
from dress.evaluation.questions import Images
from dress.inspection.data_set import DataSet
from dress.inspection.inspecting import Options, inspect
from dress.record import ImageRef, Record
from dress.sources.import_task import show
from dress.sources.lvlm_nlf import row_of

SPELLINGS = ("a/b.jpg", "./a/b.jpg", "a//b.jpg", "a/./b.jpg", "./a//./b.jpg")


def asked(image: str, number: int = 0) -> dict:
    said = [{"from": "human", "value": f"What is {number}?"}, {"from": "gpt", "value": f"Thing {number}."}]
    return {"image": image, "conversations": said}


def test_an_image_is_one_record_however_its_name_is_written(tmp_path: Path):
    photos(tmp_path / "in" / "images", "a/b.jpg", "c.jpg")
    rows = [asked(name, number) for number, name in enumerate((*SPELLINGS, "c.jpg", "./c.jpg"))]
    json_lines(tmp_path / "in" / "rows.jsonl", rows)
    result = do_import("llava", tmp_path / "in", tmp_path / "out", splits=["sft", "eval"])
    assert result.written == {"sft": 1, "eval": 1} and not result.rejected
    made = records(tmp_path / "out", "sft") + records(tmp_path / "out", "eval")
    assert {record.image.id: len(record.dialogues) for record in made} == {"a/b.jpg": 5, "c.jpg": 2}
    assert len({record.key for record in made}) == 2


def test_captions_and_records_take_the_same_name(tmp_path: Path):
    photos(tmp_path / "c" / "images", "a/b.jpg")
    json_lines(tmp_path / "c" / "rows.jsonl", [{"image": name, "caption": name} for name in SPELLINGS])
    do_import("captions", tmp_path / "c", tmp_path / "out", splits=["align"])
    (record,) = records(tmp_path / "out", "align")
    assert record.image.id == "a/b.jpg" and len(record.annotation.captions) == 5
    photos(tmp_path / "r" / "images", "a/b.jpg")
    row = {"key": "k", "image": {"id": ".//a/b.jpg"}, "annotation": {"captions": ["One."]}}
    json_lines(tmp_path / "r" / "align.jsonl", [row])
    do_import("records", tmp_path / "r", tmp_path / "out2")
    assert records(tmp_path / "out2", "align")[0].image.id == "a/b.jpg"


def test_a_row_of_lvlm_nlf_comes_back_as_it_was_written(tmp_path: Path):
    photos(tmp_path / "in" / "images", "a.jpg")
    turn = {"user": "What?", "model": "That.", "rating": "3", "critique NLF": "Well."}
    row = {"image_id": "./a.jpg", "caption": ["c"], "interaction": [turn]}
    json_lines(tmp_path / "in" / "honesty_nlf.jsonl", [row])
    do_import("lvlm_nlf", tmp_path / "in", tmp_path / "out")
    (record,) = records(tmp_path / "out", "feedback")
    assert record.image.id == "a.jpg" and row_of(record.image.id, record.dialogues[0]) == row


@pytest.mark.parametrize(
    ("there", "named", "said"),
    [
        ("é.jpg", unicodedata.normalize("NFD", "é.jpg"), "it under the same name in Unicode form NFC"),
        (unicodedata.normalize("NFD", "é.jpg"), "é.jpg", "it under the same name in Unicode form NFD"),
        ("a/b.jpg", "a\\b.jpg", "with slashes, 'a/b.jpg', got 'a\\\\b.jpg'"),
        ("a.jpg", "b.jpg", "found none"),
    ],
    ids=["nfd named", "nfc named", "back-slash", "not there"],
)
def test_a_name_that_is_not_found_says_why(tmp_path: Path, there: str, named: str, said: str):
    photos(tmp_path / "in" / "images", there, "good.jpg")
    json_lines(tmp_path / "in" / "rows.jsonl", [asked(named), asked("good.jpg")])
    result = do_import("llava", tmp_path / "in", tmp_path / "out", splits=["sft"])
    assert result.written == {"sft": 1} and sum(result.rejected.values()) == 1
    assert said in rejects(tmp_path / "out")[0]["detail"]


def test_suites_find_a_photo_in_either_form(tmp_path: Path):
    photos(tmp_path, unicodedata.normalize("NFD", "é.jpg"))
    assert Images(str(tmp_path)).get("é.jpg") is not None


# --- what an import and an inspection say of images ----------------------------------------------------


def moving() -> bytes:
    out = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(out, "PNG", save_all=True, append_images=frames[1:])
    return out.getvalue()


def narrow(length: int = 100_000) -> bytes:
    out = io.BytesIO()
    Image.new("1", (1, length)).save(out, "PNG")
    return out.getvalue()


def test_animations_and_narrow_images_are_counted_at_import(tmp_path: Path):
    folder = tmp_path / "in" / "images"
    folder.mkdir(parents=True)
    for name, data in (("moving.png", moving()), ("thin.png", narrow()), ("less.png", narrow(300)), ("a.jpg", photo())):
        (folder / name).write_bytes(data)
    rows = [asked(name) for name in ("moving.png", "thin.png", "less.png", "a.jpg")]
    json_lines(tmp_path / "in" / "rows.jsonl", rows)
    result = do_import("llava", tmp_path / "in", tmp_path / "out", splits=["sft"])
    assert result.written == {"sft": 2} and result.rejected == {"image too narrow": 2}
    assert result.noted == {"animated images, of which the first frame is used": 1}
    again = do_import("llava", tmp_path / "in", tmp_path / "out", splits=["sft"])
    assert again.unchanged and again.noted == result.noted
    console = Console(record=True, width=120)
    show(result, console)
    assert "animated images, of which the first frame is used" in console.export_text()
    wider = do_import("llava", tmp_path / "in", tmp_path / "wider", splits=["sft"], max_aspect=300)
    assert wider.written == {"sft": 3}
    many = do_import("llava", tmp_path / "in", tmp_path / "many", splits=["sft"], workers=2)
    assert many.noted == result.noted and content(tmp_path / "many") == content(tmp_path / "out")


def test_animations_and_narrow_images_are_found_by_inspect(tmp_path: Path):
    samples = [
        (Record(key=name, image=ImageRef(id=f"{name}.png")), data)
        for name, data in (("moving", moving()), ("thin", narrow()), ("less", narrow(300)))
    ]
    write_shards(tmp_path / "d", samples)

    def counts(most: float) -> dict[str, int]:
        found = inspect(DataSet(str(tmp_path / "d")), None, None, lambda data, what: data, Options(max_aspect=most))
        return dict(found.findings.counts)

    assert counts(200) == {"image animated": 1, "image too narrow": 2}
    assert counts(300) == {"image animated": 1, "image too narrow": 1}


def test_narrow_images_are_skipped_where_damage_is(tmp_path: Path):
    samples = [(Record(key=name, image=ImageRef(id=name)), data) for name, data in (("a", narrow()), ("b", photo()))]
    write_shards(tmp_path / "d", samples)
    settings = composed("data=shards", f"data.path={tmp_path}", "data.on_damage=skip").data
    shards = open_split("d", tmp_path, settings)
    assert [record.key for record, _ in shards.readable(range(2))] == ["b"]
    assert "shard-000000.tar: a: image is 1 x 100000; expected an aspect ratio" in shards.skipped[0]
    wide = open_split("d", tmp_path, settings.model_copy(update={"max_aspect": 65535.0}))
    assert wide.max_aspect == 65535
