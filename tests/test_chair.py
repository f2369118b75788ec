"""CHAIR on files: words, forms of captions and objects, what cannot be counted, a list of words of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from suite_files import CAPTIONS, OBJECTS, chair_of

from dress.coco.chair_list import load_words
from dress.coco.chair_words import chair_mentions
from dress.coco.mentions import COCO80
from dress.evaluation.rows import image_key


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("A hot dog and two dogs", ["hot dog", "dog"]),
        ("The trainer boards a train on train tracks", ["train"]),
        ("a toilet seat, a seat, toilet paper", ["toilet", "chair", "toilet"]),
        ("Knives, buses, geese, mice and wine glasses", ["knife", "bus", "bird", "mouse", "wine glass"]),
        ("an orange cat, no dog", ["orange", "cat", "dog"]),
        ("a passenger train, a baby giraffe, a baby", ["train", "giraffe", "person"]),
        ("a stove top oven", ["oven"]),
        ("a man's bow tie", ["person", "tie"]),
        ("category, scar, carpet, glasses, bus stop", ["bus"]),
        ("", []),
    ],
)  # fmt: skip
def test_chair_takes_words_literally(text: str, labels: list[str]) -> None:
    assert [label for label, _ in chair_mentions(text)] == labels


def test_every_label_of_coco_is_its_own_name() -> None:
    assert all([found for found, _ in chair_mentions(f"a {label}")] == [label] for label in COCO80)


@pytest.mark.parametrize(
    "captions",
    [
        json.dumps(CAPTIONS),
        "".join(json.dumps(row) + "\r\n" for row in CAPTIONS),
        "\n".join(json.dumps(row, indent=4) for row in CAPTIONS),
        json.dumps({row["image_id"]: row["caption"] for row in CAPTIONS}),
        json.dumps({"annotations": CAPTIONS, "images": [{"id": 1}, {"id": 2}]}, indent=1),
    ],
)
def test_chair_reads_every_form_of_captions(tmp_path: Path, captions: str) -> None:
    found = chair_of(tmp_path, captions, OBJECTS)
    assert (found["chair_i"], found["chair_s"], found["coverage"]) == (2 / 5, 1 / 2, 3 / 4)
    assert (found["n"], found["failures"], found["most_invented"]) == (2, 0, {"bed": 1, "car": 1})


def test_chair_reads_coco_and_rows_of_instances(tmp_path: Path) -> None:
    coco = {
        "images": [{"id": 1}, {"id": 2}, {"id": 3}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}],
        "annotations": [{"image_id": i, "category_id": c} for i, c in ((1, 18), (1, 17), (1, 17), (2, 18))],
    }  # fmt: skip
    references = tmp_path / "references.json"
    references.write_text(json.dumps({"annotations": [{"image_id": 2, "caption": "A dog on a chair"},
                                                      {"image_id": 9, "caption": "A dog"}]}))  # fmt: skip
    found = chair_of(tmp_path, json.dumps(CAPTIONS), coco, references=str(references))
    assert (found["chair_i"], found["coverage"]) == (2 / 5, 3 / 4)
    assert found["failures"] == 0  # image 3 of the data set was not to be captioned
    rows = [
        {"image": "1.jpg", "instances": [{"category": "dog", "bbox": []}, {"category": "cat"}]},
        {"image": "2.jpg", "captions": ["a chair"], "instances": [{"category": "dog"}]},
    ]
    found = chair_of(tmp_path, json.dumps(CAPTIONS), "\n".join(map(json.dumps, rows)))
    assert (found["chair_i"], found["coverage"]) == (2 / 5, 3 / 4)


def test_what_chair_cannot_count_is_named(tmp_path: Path) -> None:
    captions = [*CAPTIONS, CAPTIONS[0], {"image_id": 2, "caption": "A car."}, {"image_id": 3, "caption": "\n"},
                {"image_id": 8, "caption": "A dog"}, {"caption": "A dog"}]  # fmt: skip
    text = "\r\n".join(map(json.dumps, captions)) + '\r\n{"image_id": 5, "caption": "A'
    found = chair_of(tmp_path, text, {**OBJECTS, "3": [], "4": ["sofa", "unicorn"]})
    assert found["failed"] == {
        "captioned again": 1, "captioned again, differently": 1, "empty caption": 1, "image is not in objects": 1,
        "no caption": 1, "no image_id": 1, "not JSON": 1,
        "objects: label is none of COCO's 80": 1,
    }  # fmt: skip
    assert (found["n"], found["chair_s"], found["failures"]) == (2, 1 / 2, 8)


def test_an_image_has_one_name_however_it_is_written() -> None:
    names = [40468, "40468", "000000040468.jpg", "COCO_val2014_000000040468.jpg", "x/COCO_train2014_000000040468.png"]
    assert {image_key(name) for name in names} == {"40468"}
    assert image_key("cat_1.jpg") != image_key("dog_1.jpg")


# --- CHAIR with the original's list -----------------------------------------------------------------

WORDS = """person, man, woman, people, baby, adult, passenger
dog, puppy
giraffe
train, passenger train
toilet, commode
chair, seat, stool
tie, bow
wine glass, goblet
hot dog
orange
"""


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("A man, two dogs and a puppy.", ["person", "dog", "dog"]),
        ("a hot dog; hot, dogs", ["hot dog", "dog"]),
        ("a baby giraffe, an adult dog, a baby", ["giraffe", "dog", "person"]),
        ("a passenger train for passengers", ["train", "person"]),
        ("a toilet seat", ["toilet"]),
        ("the seat of a toilet", ["toilet"]),
        ("a seat, a commode", ["chair", "toilet"]),  # a commode is no word `toilet`: the original counts the seat
        ("a bow tie, a bow", ["tie", "tie"]),
        ("two wine glasses", ["wine glass"]),
        ("no dog on the train tracks", ["dog"]),
        ("an orange cat", ["orange"]),
        ("a man's dog", ["person", "dog"]),
        ("a table and a unicorn", []),
    ],
)  # fmt: skip
def test_a_published_list_of_words_is_read_as_chair_reads_it(tmp_path: Path, text: str, labels: list[str]) -> None:
    file = tmp_path / "synonyms.txt"
    for end in ("\n", "\r\n"):
        file.write_bytes(WORDS.replace("\n", end).encode())
        assert [label for label, _ in load_words(str(file)).mentions(text)] == labels


def test_chair_with_a_list_of_words(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text(WORDS)
    captions = [{"image_id": 1, "caption": "A puppy on a stool."}, {"image_id": 2, "caption": "A man and a goblet."}]
    objects = {"1": ["dog", "chair"], "2": ["person", "unicorn"]}
    found = chair_of(tmp_path, json.dumps(captions), objects, words=str(tmp_path / "words.txt"))
    assert (found["chair_i"], found["chair_s"], found["coverage"]) == (1 / 4, 1 / 2, 1)
    assert found["prompt_hash"].startswith("chair-list@") and found["most_invented"] == {"wine glass": 1}
    assert found["failed"] == {"objects: label is not in words": 1}
    ours = chair_of(tmp_path, json.dumps(captions), objects)
    assert ours["prompt_hash"].startswith("chair@") and ours["chair_i"] == 0  # a goblet is no name of ours


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("person, man\ndog,, puppy\n", 2),
        ("person,\n", 1),
        ('person, man\n\n{"dog": []}\n', 3),
        ("person\x00\n", 1),
        ("", 1),
    ],
)
def test_a_damaged_list_of_words_is_refused_with_its_line(tmp_path: Path, text: str, place: int) -> None:
    file = tmp_path / "words.txt"
    file.write_text(text)
    with pytest.raises(ValueError, match=rf"words=.*words\.txt:{place}: expected an object and its synonyms"):
        chair_of(tmp_path, json.dumps(CAPTIONS), OBJECTS, words=str(file))
    file.write_bytes(b"person\xff")
    with pytest.raises(ValueError, match=r"words=.*words\.txt: expected UTF-8"):
        chair_of(tmp_path, json.dumps(CAPTIONS), OBJECTS, words=str(file))
