"""Parquet and `datasets.save_to_disk` folders as publishers have them: read without the library that wrote them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from imports import content, do_import, json_lines, photo, photos, records, rejects
from test_sources import aspects, fire, said, vlfeedback

from dress.inspection.data_set import DataSet
from dress.sources.protocol import RowFile, SourceError
from dress.sources.row_files import row_files_of, rows_of

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
MESSAGE = pa.struct([("role", pa.string()), ("type", pa.string()), ("value", pa.string())])
SIDE = pa.struct([("from", pa.string()), ("value", pa.string())])
FIRE = pa.schema([
    ("id", pa.string()), ("image", pa.string()), ("question", SIDE), ("groundtruth", SIDE),
    ("conversations", pa.list_(MESSAGE)),
])  # fmt: skip
ASPECT = pa.struct([("Rating", pa.string()), ("Rationale", pa.string())])
ASPECTS = pa.struct([(name, ASPECT) for name in ("Ethical Considerations", "Helpfulness", "Visual Faithfulness")])
COMPLETION = pa.struct([("annotations", ASPECTS), ("model", pa.string()), ("response", pa.string())])
VLFEEDBACK = pa.schema([
    ("id", pa.string()), ("prompt", pa.string()), ("models", pa.list_(pa.string())), ("img_path", pa.string()),
    ("completions", pa.list_(COMPLETION)), ("image", IMAGE),
])  # fmt: skip
LLAVA = pa.schema([("id", pa.string()), ("image", IMAGE), ("conversations", pa.list_(SIDE))])


def parquet(path: Path, rows: list[dict[str, Any]], schema: pa.Schema, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), path, **more)
    return path


def saved(folder: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> Path:
    """What `Dataset.save_to_disk` writes: Arrow streams in two files, and their list."""
    folder.mkdir(parents=True)
    names = [f"data-{number:05d}-of-00002.arrow" for number in range(2)]
    half = (len(rows) + 1) // 2
    for name, part in zip(names, (rows[:half], rows[half:]), strict=True):
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
            writer.write_table(pa.Table.from_pylist(part, schema), max_chunksize=2)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {}}))
    return folder


def llava(number: int, image: bytes | None = None, path: str | None = "image.jpg") -> dict[str, Any]:
    struct = None if image is None else {"bytes": image, "path": path}
    mark = "" if image is None else "<image>\n"
    return {"id": str(number), "image": struct, "conversations": said(f"{mark}What is {number}?", f"Thing {number}.")}


def rows(path: Path) -> list[Any]:
    return [json.loads(row.data) for row in rows_of(RowFile(path))(0)]


def test_fire_in_parquet_gives_the_records_of_fire_in_json(tmp_path: Path) -> None:
    given = [fire(), fire(id="fire-2", question={"from": "human", "value": "Who?"}), fire(id="fire-3", image=None)]
    json_lines(tmp_path / "json" / "train.jsonl", given)
    parquet(tmp_path / "repository" / "data" / "train-00000-of-00002.parquet", given[:1], FIRE)
    parquet(tmp_path / "repository" / "data" / "train-00001-of-00002.parquet", given[1:], FIRE)
    for folder in ("json", "repository"):
        photos(tmp_path / folder / "images", fire()["image"])
        result = do_import("fire", tmp_path / folder, tmp_path / f"from_{folder}", splits=["feedback", "prompts"])
        assert (result.used, result.rejected, result.written) == (2, {"bad field": 1}, {"prompts": 1, "feedback": 1})
    for split in ("feedback", "prompts"):
        assert records(tmp_path / "from_json", split) == records(tmp_path / "from_repository", split)
    (reject,) = rejects(tmp_path / "from_repository")
    assert (reject["file"], reject["line"]) == ("data/train-00001-of-00002.parquet", 2)
    assert reject["row"] == given[2] and "image: expected a file name, got None" in reject["detail"]


def test_vlfeedback_in_parquet_with_its_images_in_a_column(tmp_path: Path) -> None:
    given = vlfeedback(image={"bytes": photo(1), "path": "svit-1.jpg"})
    given["completions"][1]["annotations"]["Helpfulness"] = None
    parquet(tmp_path / "in" / "data" / "train-00000-of-00001.parquet", [given], VLFEEDBACK)
    do_import("vlfeedback", tmp_path / "in", tmp_path / "out")
    (record,) = records(tmp_path / "out", "feedback")
    assert record.image is not None and record.image.id.endswith("/svit-1.jpg")
    assert record.image.sha256 == hashlib.sha256(photo(1)).hexdigest()
    assert record.dialogues[0].extra == {"id": "svit-1", "models": given["models"], "img_path": "merged/a.jpg"}
    first, second = (dialogue.turns[0] for dialogue in record.dialogues)
    assert {f.criterion: f.rating for f in first.feedback} == {"helpfulness": 4, "harmlessness": None, "honesty": 2}
    assert {f.criterion for f in second.feedback} == {"harmlessness", "honesty"}
    assert (second.assistant, second.provenance) == ("A bus.", {"responder": "qwen-vl"})
    assert aspects("1", "5", "4")["Visual Faithfulness"]["Rationale"] in {f.critique for f in second.feedback}


@pytest.mark.parametrize("form", ["parquet", "saved", "splits"])
def test_images_of_a_column_become_the_images_of_records(form: str, tmp_path: Path) -> None:
    given = [llava(0, photo(0)), llava(1, photo(1)), llava(2, photo(0)), llava(3, photo(2), path=None), llava(4)]
    path = tmp_path / "in"
    if form == "parquet":
        parquet(path / "x.parquet", given, LLAVA, row_group_size=2)
    elif form == "saved":
        saved(path, given, LLAVA)
    else:
        saved(path / "train", given[:4], LLAVA)
        saved(path / "test", given[3:], LLAVA)
        (path / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    outs = [tmp_path / f"out{workers}" for workers in range(2)]
    for workers, out in enumerate(outs):
        do_import("llava", path, out, workers=workers, held_out=0)
    assert content(outs[0]) == content(outs[1])
    made = records(outs[0], "sft")
    images = [None if record.image is None else record.image.sha256 for record in made]
    assert images[:2] == [hashlib.sha256(photo(number)).hexdigest() for number in (0, 1)]
    assert [len(record.dialogues) for record in made][:2] == [2, 1]  # equal images of equal names are one record
    assert len({record.key for record in made}) == len(made)
    if form == "splits":  # what the publisher tests with is not taught, also where a row of train names its image
        assert len(made) == 2 and len(records(outs[0], "eval")) == 2
    else:
        assert images[2:] == [hashlib.sha256(photo(2)).hexdigest(), None] and not (outs[0] / "eval").exists()


def test_what_cannot_be_used_is_rejected_by_name_and_row_and_can_be_repaired(tmp_path: Path) -> None:
    bad = [llava(1, photo(1)[:-50]), llava(2, b"no image"), llava(3) | {"conversations": said("<image> What?", "A.")}]
    parquet(tmp_path / "in" / "x.parquet", [llava(0, photo(0)), *bad, llava(4, photo(4))], LLAVA)
    result = do_import("llava", tmp_path / "in", tmp_path / "out", held_out=0)
    assert (result.used, result.rejected) == (2, {"image unusable": 2, "no image named": 1})
    lines = rejects(tmp_path / "out")
    assert [(line["file"], line["line"]) for line in lines] == [("x.parquet", 2), ("x.parquet", 3), ("x.parquet", 4)]
    image = tmp_path / "out" / "reject_images" / lines[0]["row"]["image"]
    assert image.read_bytes() == photo(1)[:-50]
    image.write_bytes(photo(1))
    again = do_import("llava", tmp_path / "out" / "rejects.jsonl", tmp_path / "again", held_out=0)
    assert (again.used, again.rejected) == (1, {"image unusable": 1, "no image named": 1})


def test_a_damaged_file_costs_what_cannot_be_read(tmp_path: Path) -> None:
    given = [llava(number, photo(number)) for number in range(6)]
    path = parquet(tmp_path / "in" / "a.parquet", given, LLAVA, row_group_size=2, write_page_checksum=True)
    whole, columns = path.read_bytes(), pq.ParquetFile(path).metadata.row_group(1).column(1)
    at = columns.dictionary_page_offset or columns.data_page_offset
    path.write_bytes(whole[: at + 30] + bytes(200) + whole[at + 230 :])
    parquet(tmp_path / "in" / "b.parquet", given[:1], LLAVA).write_bytes(whole[:-100])
    result = do_import("llava", tmp_path / "in", tmp_path / "out", held_out=0)
    assert (result.used, result.rejected) == (4, {"damaged file": 2})
    lines = rejects(tmp_path / "out")
    assert [(line["file"], line["line"]) for line in lines] == [("a.parquet", 3), ("b.parquet", 1)]
    assert "rows 3 to 4 cannot be read" in lines[0]["detail"] and "expected Parquet" in lines[1]["detail"]


def test_a_stream_that_was_cut_gives_its_rows_and_says_so(tmp_path: Path) -> None:
    path = saved(tmp_path / "in", [llava(number, photo(number)) for number in range(8)], LLAVA)
    last = path / "data-00001-of-00002.arrow"
    last.write_bytes(last.read_bytes()[:-600])
    result = do_import("llava", path, tmp_path / "out", held_out=0)
    assert (result.used, result.rejected) == (6, {"damaged file": 1})
    (reject,) = rejects(tmp_path / "out")
    assert (reject["file"], reject["line"]) == ("data-00001-of-00002.arrow", 3)
    for text in ("{", '{"_data_files": [{"filename": "../x.arrow"}]}', "[]"):
        (path / "state.json").write_text(text)
        with pytest.raises(SourceError, match=r"state\.json: expected"):
            do_import("llava", path, tmp_path / "again")


def test_values_are_those_of_the_same_set_as_json(tmp_path: Path) -> None:
    value = {"a": [1, None, 3], "b": {"c": "é\u2028", "d": None}, "e": 1.5, "f": True, "g": 2**40}
    path = tmp_path / "x.parquet"
    pq.write_table(pa.Table.from_pylist([value, value | {"b": None, "a": []}]), path)
    assert rows(path) == [value, value | {"b": None, "a": []}]


def test_which_files_of_a_folder_are_rows(tmp_path: Path) -> None:
    for name in ("train-00000-of-00001", "test-00000-of-00001", "validation", "evaluations", "tests"):
        parquet(tmp_path / "data" / f"{name}.parquet", [llava(0)], LLAVA)
    held = [table.file.stem for table in row_files_of(tmp_path, "*.json") if table.test]
    assert held == ["test-00000-of-00001", "validation"]
    (tmp_path / "dataset_infos.json").write_text("{}")
    assert len(row_files_of(tmp_path, "*.json")) == 5
    (tmp_path / "rows.json").write_text("[]")
    assert [table.file.name for table in row_files_of(tmp_path, "*.json")] == ["rows.json"]
    assert [item.record.dialogues[0].turns[0].user for item in DataSet(str(tmp_path / "data"))] == ["What is 0?"] * 5


def test_reading_goes_on_behind_any_row(tmp_path: Path) -> None:
    given = [llava(number, photo(number)) for number in range(7)]
    folder = saved(tmp_path / "saved", given, LLAVA)
    for path in (parquet(tmp_path / "x.parquet", given, LLAVA, row_group_size=3), folder / "data-00000-of-00002.arrow"):
        everything = list(rows_of(RowFile(path))(0))
        assert [row.number for row in everything] == list(range(1, len(everything) + 1))
        for number in range(len(everything) + 1):
            assert list(rows_of(RowFile(path))(number)) == everything[number:]


def test_memory_does_not_grow_with_a_parquet_file(tmp_path: Path) -> None:
    peaks = []
    for megabytes in (60, 180):
        noise, path = pa.array([bytes([n % 256]) * 200_000 for n in range(100)]), tmp_path / f"{megabytes}.parquet"
        with pq.ParquetWriter(path, pa.schema([("x", pa.binary())]), compression="none", use_dictionary=False) as out:
            for _ in range(megabytes // 20):
                out.write_table(pa.table({"x": noise.cast(pa.binary())}))
        code = "from dress.sources.row_files import *; from pathlib import Path; import resource; "
        code += f"n = sum(1 for _ in rows_of(RowFile(Path({str(path)!r})))(0)); "
        code += "print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        command = [sys.executable, "-c", code]
        done = subprocess.run(
            command, env={"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, check=True
        )
        number, peak = map(int, done.stdout.split())
        assert number == megabytes * 5
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 20_000  # KB
