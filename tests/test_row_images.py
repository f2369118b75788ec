"""Which picture a row of anybody's table means; rows with several pictures or a video are rejected by name."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from imports import import_table, json_lines, photo, photos, reasons, records, rejects
from test_own_rows import OWN, table

from dress.config.rows import RowMapping


def test_urls_videos_and_several_images_are_rejected_by_name(tmp_path: Path) -> None:
    images = ["http://a.b/c.jpg", ["a.jpg", "b.jpg"], "../a.jpg", "/etc/a.jpg", "no.jpg"]
    rows = [{"image": image, "question": "What?", "answer": "A."} for image in [*images, "ok.jpg"]]
    rows.append({"image": None, "video": "a.mp4", "question": "What?", "answer": "A."})
    photos(tmp_path / "in" / "images", "ok.jpg")
    import_table(json_lines(tmp_path / "in" / "r.jsonl", rows), tmp_path / "out")
    expected = ["image is a URL", "several images", "bad image name", "bad image name", "image missing", "video"]
    assert sorted(reasons(tmp_path / "out")) == sorted(expected)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["image", "text"], None), (["image_url", "text", "image"], "several images"), (["text", "video"], "video"),
    ],
)  # fmt: skip
def test_several_images_and_videos_in_messages_are_rejected_by_name(
    tmp_path: Path, parts: list[str], expected: str | None
) -> None:
    content = [{"type": part, "text": "What?"} if part == "text" else {"type": part} for part in parts]
    rows = [
        {
            "image": OWN[0]["image"],
            "messages": [{"role": "user", "content": said}, {"role": "assistant", "content": "A."}],
        }
        for said in (content, "What else?")
    ]
    result = import_table(table(tmp_path / "in", *rows), tmp_path / "out")
    assert result.rejected == ({expected: 1} if expected else {})


def test_images_in_numbered_columns_and_in_cells_of_csv_are_counted(tmp_path: Path) -> None:
    rows = [{"image_1": "a.jpg", "image_2": other, "question": "What?", "answer": "A."} for other in (None, "b.jpg")]
    photos(tmp_path / "in" / "images", "a.jpg", "b.jpg")
    mapping = RowMapping.model_validate({"columns": {"image": "image_1"}})
    result = import_table(json_lines(tmp_path / "in" / "r.jsonl", rows), tmp_path / "one", mapping=mapping)
    assert result.rejected == {"several images": 1}
    cells = [
        {"image": cell, "question": "What?", "answer": "A."}
        for cell in ('["a.jpg", "b.jpg"]', '["a.jpg"]', "a.jpg;b.jpg", "a.jpg, b.JPG")
    ]
    file = table(tmp_path / "csv", *cells, name="r.csv")
    assert import_table(file, tmp_path / "two", images=str(tmp_path / "in" / "images")).rejected == {
        "several images": 3
    }
    photos(tmp_path / "in" / "images", "a.jpg;b.jpg")
    result = import_table(file, tmp_path / "three", images=str(tmp_path / "in" / "images"))
    assert result.rejected == {"several images": 2}, "a file may be called so"


def test_images_as_base64_data_uri_struct_absolute_path_and_null(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    photos(folder / "images", "a.jpg")
    texts = [base64.b64encode(photo(n)).decode() for n in (1, 2, 3)]
    images = [texts[0], f"data:image/jpeg;base64,{texts[1]}", {"bytes": texts[2], "path": "x.jpg"},
              str(folder / "images" / "a.jpg"), ["a.jpg"], None]  # fmt: skip
    rows = [{"image": image, "question": f"{n}?", "answer": "A."} for n, image in enumerate(images)]
    result = import_table(json_lines(folder / "r.jsonl", rows), tmp_path / "out", held_out=0)
    assert result.rejected == {}
    found = {d.turns[0].user: r for r in records(tmp_path / "out", "sft") for d in r.dialogues}
    assert found["3?"].image == found["4?"].image and found["5?"].image is None
    assert len({r.image.sha256 for r in found.values() if r.image}) == 4


def test_a_rejected_row_with_its_own_image_can_be_repaired(tmp_path: Path) -> None:
    rows = [{"image": base64.b64encode(photo(n)).decode(), "question": "What?", "answer": "A.", "rating": n}
            for n in (1, 9)]  # fmt: skip
    json_lines(tmp_path / "in" / "r.jsonl", rows)
    first = tmp_path / "out"
    import_table(tmp_path / "in" / "r.jsonl", first, rating={"from": [1, 4]}, held_out=0)
    (reject,) = rejects(first)
    reject["row"]["rating"] = 3
    json_lines(first / "rejects.jsonl", [reject])
    import_table(first / "rejects.jsonl", tmp_path / "again", rating={"from": [1, 4]}, held_out=0)
    assert [r.dialogues[0].turns[0].rating for r in records(tmp_path / "again", "feedback")] == [3]
