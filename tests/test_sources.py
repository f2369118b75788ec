"""Every public format in its exact shape, small: what a row becomes, and what of it is rejected with which reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imports import do_import, json_lines, photo, photos, reasons, records, rejects
from pydantic import ValidationError

from dress.coco.mentions import COCO80
from dress.phases.refinement import refinement
from dress.sources import SOURCES, source
from dress.sources.fields import rating
from dress.sources.protocol import Place, RowError, SourceError

# --- llava -------------------------------------------------------------------------------------


def said(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]


def llava(path: Path, *rows: Any) -> Path:
    path.mkdir(exist_ok=True)
    (path / "mix.json").write_text(json.dumps(list(rows)))
    return path


def test_llava_rows_of_one_image_are_dialogues_of_one_record(tmp_path: Path) -> None:
    rounds = said("<image>\nWhat colour is the bus?", "White and red.", "And the sky?", "Blue.")
    first = {"id": "1", "image": "coco/train2017/000000033471.jpg", "conversations": rounds}
    last = {
        "id": "2",
        "image": ["coco/train2017/000000033471.jpg"],
        "conversations": said("Who drives?\n<image>", "Nobody."),
    }
    text = {"id": "wgByO4Y_0", "model": "", "conversations": said("Write a poem.", "Roses are red.", "Go on.")}
    path = llava(tmp_path / "in", first, last, text)
    photos(path, "coco/train2017/000000033471.jpg")
    result = do_import("llava", path, tmp_path / "out", splits=["sft", "prompts"])
    assert result.written == {"sft": 2, "prompts": 2} and result.rejected == {}
    about, poem = records(tmp_path / "out", "sft")
    assert about.key == "coco-train2017-000000033471" and about.image is not None
    assert [[(t.user, t.assistant) for t in d.turns] for d in about.dialogues] == [
        [("What colour is the bus?", "White and red."), ("And the sky?", "Blue.")],
        [("Who drives?", "Nobody.")],
    ]
    assert [d.extra for d in about.dialogues] == [{"id": "1"}, {"id": "2", "image_token": "last"}]
    assert poem.image is None and poem.key == "mix-00000003"
    assert poem.dialogues[0].turns[1].assistant is None
    assert poem.dialogues[0].extra == {"id": "wgByO4Y_0", "model": ""}
    asked = records(tmp_path / "out", "prompts")[0].dialogues
    assert [(d.turns[0].user, d.turns[0].assistant, d.reference) for d in asked] == [
        ("What colour is the bus?", None, "White and red."), ("Who drives?", None, "Nobody."),
    ]  # fmt: skip


def test_llava_rows_that_cannot_be_used_have_reasons(tmp_path: Path) -> None:
    good = {"id": "0", "image": "a.jpg", "conversations": said("<image>\nWhat?", "A dog.")}
    bad = [
        ("bad field", good | {"image": 5}),
        ("no image named", good | {"image": None}),
        ("no image named", {"id": "0", "conversations": good["conversations"]}),
        ("several images", good | {"image": ["a.jpg", "b.jpg"]}),
        ("several images", good | {"conversations": said("<image><image>\nWhich?", "Both.")}),
        ("bad image name", good | {"image": "../a.jpg"}),
        ("bad image name", good | {"image": "/etc/passwd"}),
        ("bad image name", good | {"image": "x" * 300 + ".jpg"}),
        ("bad field", good | {"conversations": []}),
        ("bad field", good | {"conversations": [{"from": "human"}]}),
        ("bad field", good | {"conversations": [{"from": "human", "value": 7}]}),
        ("bad order", good | {"conversations": said("<image>\nWhat?", "A dog.")[::-1]}),
        ("bad order", good | {"conversations": [{"from": "bot", "value": "Hi <image>"}]}),
        ("empty text", good | {"conversations": said("<image>", "A dog.")}),
        ("empty text", good | {"conversations": said("<image>\nWhat?", " ")}),
        ("duplicate row", good),
        ("bad field", ["a.jpg", "A dog."]),
        ("image missing", good | {"image": "b.jpg"}),
    ]
    path = llava(tmp_path / "in", good, *(row for _, row in bad))
    photos(path, "a.jpg")
    result = do_import("llava", path, tmp_path / "out")
    assert reasons(tmp_path / "out") == [reason for reason, _ in bad]
    assert [reject["row"] for reject in rejects(tmp_path / "out")] == [row for _, row in bad]
    assert (result.read, result.used, result.written["sft"]) == (len(bad) + 1, 1, 1)


def test_llava_keeps_white_space_and_the_system_text(tmp_path: Path) -> None:
    rounds = [
        {"from": "system", "value": "Be a pirate.\n"},
        *said("<image>\n  Pick:\nA. <|end|>\n", " def f():\n\tx\n"),
    ]
    path = llava(tmp_path / "in", {"id": "1", "image": "a.jpg", "conversations": rounds})
    photos(path, "a.jpg")
    do_import("llava", path, tmp_path / "out", splits=["sft", "prompts"])
    (record,), (asked,) = records(tmp_path / "out", "sft"), records(tmp_path / "out", "prompts")
    (dialogue,) = record.dialogues
    assert dialogue.system == asked.dialogues[0].system == "Be a pirate.\n" and dialogue.extra == {"id": "1"}
    assert (dialogue.turns[0].user, dialogue.turns[0].assistant) == ("  Pick:\nA. <|end|>\n", " def f():\n\tx\n")


def test_llava_of_instruction_and_output_is_one_round(tmp_path: Path) -> None:
    row = {"id": "000000525439", "image": "COCO_val2014_000000525439.jpg", "instruction": "Where is it?",
           "output": "Upside down.", "type": "conv"}  # fmt: skip
    path = json_lines(tmp_path / "in" / "qa.jsonl", [row])
    photos(path.parent / "images", row["image"])
    do_import("llava", path, tmp_path / "out")
    (record,) = records(tmp_path / "out", "sft")
    assert record.dialogues[0].turns[0].assistant == "Upside down."
    assert record.dialogues[0].extra == {"id": "000000525439", "type": "conv"}


# --- captions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["json", "jsonl", "csv", "tsv"])
def test_pairs_of_image_and_caption(form: str, tmp_path: Path) -> None:
    rows = [("a.jpg", 'A dog, "big" and\nblack.', "x"), ("b.jpg", "A cat.", "y"), ("a.jpg", "Another dog.", "z")]
    path = tmp_path / f"pairs.{form}"
    objects = [{"image": image, "caption": caption, "url": url} for image, caption, url in rows]
    if form == "json":
        path.write_text(json.dumps(objects, indent=2))
    elif form == "jsonl":
        json_lines(path, objects)
    else:
        import csv

        with path.open("w", newline="") as file:
            csv.writer(file, delimiter="\t" if form == "tsv" else ",").writerows([("image", "caption", "url"), *rows])
    photos(tmp_path / "images", "a.jpg", "b.jpg")
    result = do_import("captions", path, tmp_path / "out", held_out=0)
    assert result.written == {"align": 2, "eval": 0} and result.rejected == {}
    dog, cat = records(tmp_path / "out", "align")
    assert dog.annotation.captions == ['A dog, "big" and\nblack.', "Another dog."]
    assert dog.extra == {"url": "x", "merged": [{"url": "z"}]} and cat.extra == {"url": "y"}


def test_pairs_that_cannot_be_used_have_reasons(tmp_path: Path) -> None:
    bad = [
        ("bad field", {"image": "a.jpg"}), ("bad field", {"caption": "A dog."}), ("bad field", "a.jpg"),
        ("bad field", {"image": "a.jpg", "caption": 7}), ("empty text", {"image": "a.jpg", "caption": " "}),
        ("empty text", {"image": "a.jpg", "caption": []}), ("bad field", {"image": ["a.jpg"], "caption": "A dog."}),
        ("bad box", {"image": "a.jpg", "caption": "A.", "instances": [{"category": "dog", "bbox": [0, 0, 9, 9]}]}),
    ]  # fmt: skip
    path = json_lines(
        tmp_path / "x.jsonl", [{"image": "a.jpg", "caption": ["A dog.", "A pet."]}, *(row for _, row in bad)]
    )
    photos(tmp_path, "a.jpg")
    do_import("captions", path, tmp_path / "out")
    assert reasons(tmp_path / "out") == [reason for reason, _ in bad]
    assert records(tmp_path / "out", "align")[0].annotation.captions == ["A dog.", "A pet."]


CATEGORIES = [{"supercategory": "x", "id": number + 1, "name": name} for number, name in enumerate(COCO80)]


def coco(folder: Path) -> Path:
    """`annotations/` and `train2017/` as COCO has them; three images, one without an object."""
    images = [{"license": 4, "file_name": f"{n:012d}.jpg", "height": 200, "width": 400, "id": n} for n in (9, 25, 30)]
    captions = [{"image_id": n, "id": n + 100, "caption": f"A dog number {n}."} for n in (9, 25, 30)]
    captions.append({"image_id": 9, "id": 500, "caption": "A second one."})
    box = {"segmentation": [[1.5, 2, 3, 4]], "area": 9.5, "iscrowd": 0, "image_id": 9, "bbox": [100.0, 50, 200, 100.5]}
    boxes = [
        box | {"category_id": 1 + COCO80.index("dog"), "id": 7},
        box | {"category_id": 1 + COCO80.index("cat"), "id": 8, "bbox": [390, 190, 20, 20]},
        box | {"category_id": 1 + COCO80.index("cat"), "id": 9, "image_id": 25},
        box | {"category_id": 999, "id": 10},
        box | {"category_id": 1, "id": 11, "bbox": [1, 2, -3, 4]},
        box | {"category_id": 1, "id": 12, "bbox": [1, 2, 3]},
        box | {"category_id": 1, "id": 13, "image_id": 77},
    ]
    head = {"info": {"year": 2017}, "licenses": [{"id": 4}]}
    folder = folder / "annotations"
    folder.mkdir(parents=True)
    (folder / "captions_train2017.json").write_text(json.dumps({**head, "images": images, "annotations": captions}))
    instances = {**head, "images": images, "annotations": boxes, "categories": CATEGORIES}
    (folder / "instances_train2017.json").write_text(json.dumps(instances))
    photos(folder.parent / "train2017", *(image["file_name"] for image in images))
    return folder


@pytest.mark.parametrize("one_file", [False, True])
def test_coco_captions_and_instances_make_one_record_per_image(one_file: bool, tmp_path: Path) -> None:
    path = coco(tmp_path / "coco")
    path = path / "captions_train2017.json" if one_file else path
    every = ["align", "sft", "prompts", "eval"]
    result = do_import("captions", path, tmp_path / "out", splits=every, held_out=1)
    assert result.written == {"align": 2, "sft": 2, "prompts": 2, "eval": 1}
    assert result.rejected == {"bad box": 2, "unknown category": 1, "no image row": 1}
    assert (result.read, result.used) == (3 + 4 + 3 + 7, 3 + 4 + 3 + 3)
    by_key = {r.key: r for split in ("align", "eval") for r in records(tmp_path / "out", split)}
    record = by_key["000000000009"]
    assert record.image is not None and record.image.extra == {"license": 4, "height": 200, "width": 400}
    assert record.annotation.captions == ["A dog number 9.", "A second one."]
    dog, cat = record.annotation.objects
    assert (dog.label, dog.box) == ("dog", (0.25, 0.25, 0.75, 0.7525))
    assert dog.extra == {
        "bbox": [100.0, 50, 200, 100.5],
        "segmentation": [[1.5, 2, 3, 4]],
        "area": 9.5,
        "iscrowd": 0,
        "id": 7,
    }
    assert cat.box == (0.975, 0.95, 1.0, 1.0)  # cut off where the image ends
    assert {r.annotation.extra["vocabulary"] for r in by_key.values()} == {"coco80"}
    taught = {d.turns[0].assistant for r in records(tmp_path / "out", "sft") for d in r.dialogues}
    assert any(answer and answer.startswith("No, there is no") for answer in taught)


# --- fire --------------------------------------------------------------------------------------


def fire(**changes: Any) -> dict[str, Any]:
    return {
        "id": "fire-1",
        "image": "coco/train2017/000000000110.jpg",
        "question": {"from": "human", "value": "<image>\nHow many people are there?"},
        "groundtruth": {"from": "gpt", "value": "Three."},
        "conversations": [
            {"role": "student", "type": "response", "value": "Thought: I count heads.\nAnswer: Two people.\n\n"},
            {"role": "teacher", "type": "feedback", "value": "Score: 4.\nFeedback: Look behind the table.\n"},
            {"role": "student", "type": "response", "value": "Thought: There is one more.\nAnswer: Three people.\n\n"},
            {"role": "teacher", "type": "feedback", "value": "Score: 10.\nFeedback: Well done.\n"},
        ],
    } | changes


def test_fire_turns_scores_into_ratings_and_feedback_into_advice(tmp_path: Path, phases: Any) -> None:
    path = json_lines(tmp_path / "in" / "fire.jsonl", [fire()])
    photos(path.parent, fire()["image"])
    result = do_import("fire", path.parent, tmp_path / "out", splits=["feedback", "prompts"])
    assert result.written == {"prompts": 1, "feedback": 1}
    (record,) = records(tmp_path / "out", "feedback")
    (dialogue,) = record.dialogues
    assert dialogue.reference == "Three." and dialogue.extra == {"id": "fire-1"}
    first, second = dialogue.turns
    assert (first.user, first.assistant) == ("How many people are there?", "Two people.")
    assert (second.user, second.assistant) == ("Look behind the table.", "Three people.")
    assert first.extra == {"thought": "I count heads."}
    assert first.feedback[0].model_dump(exclude={"extra", "prompt_version", "spans"}) == {
        "criterion": None, "rating": 2, "critique": "Look behind the table.", "refinement": "Look behind the table.",
        "annotator": "fire-teacher", "original": {"value": 4.0, "min": 1.0, "max": 10.0},
    }  # fmt: skip
    assert (second.feedback[0].rating, second.feedback[0].refinement) == (4, None)
    assert refinement(record, phases)  # it is learned from
    (asked,) = records(tmp_path / "out", "prompts")[0].dialogues
    assert (asked.turns[0].user, asked.turns[0].assistant, asked.reference) == (first.user, None, "Three.")


def test_fire_rows_that_cannot_be_used_have_reasons(tmp_path: Path) -> None:
    teacher = {"role": "teacher", "type": "feedback"}
    student = {"role": "student", "type": "response", "value": "Thought: x\nAnswer: Two."}
    bad = [
        ("bad rating", fire(conversations=[student, teacher | {"value": "Score: 11.\nFeedback: Good."}])),
        ("bad feedback", fire(conversations=[student, teacher | {"value": "Score: N/A.\nFeedback: Good."}])),
        ("bad feedback", fire(conversations=[student, teacher | {"value": "Score: high.\nFeedback: Good."}])),
        ("bad feedback", fire(conversations=[student, teacher | {"value": "Score: 5.\nFeedback: "}])),
        ("bad feedback", fire(conversations=[student, teacher | {"value": "Good."}])),
        ("bad order", fire(conversations=[student, student])),
        ("bad order", fire(conversations=[teacher | {"value": "Score: 5.\nFeedback: No."}])),
        ("bad field", fire(conversations=[])),
        ("bad field", fire(question=None)),
        ("empty text", fire(question="<image>")),
        ("empty text", fire(conversations=[student | {"value": "Thought: x\nAnswer: "}])),
    ]  # fmt: skip
    low = fire(conversations=[student, teacher | {"value": "Score: 0/10.\nFeedback: Not an answer."}])
    path = json_lines(tmp_path / "in" / "fire.jsonl", [low, *(row for _, row in bad)])
    photos(path.parent, fire()["image"])
    do_import("fire", path, tmp_path / "out")
    assert reasons(tmp_path / "out") == [reason for reason, _ in bad]
    feedback = records(tmp_path / "out", "feedback")[0].dialogues[0].turns[0].feedback[0]
    assert feedback.rating == 1 and feedback.original is not None and feedback.original.value == 0


# --- vlfeedback --------------------------------------------------------------------------------


def aspects(helpful: Any, ethical: Any, faithful: Any) -> dict[str, Any]:
    names = {"Helpfulness": helpful, "Ethical Considerations": ethical, "Visual Faithfulness": faithful}
    return {name: {"Rating": given, "Rationale": f"{name}: because."} for name, given in names.items()}


def vlfeedback(*completions: dict[str, Any], **changes: Any) -> dict[str, Any]:
    given = completions or (
        {"annotations": aspects("5", "N/A", "3"), "model": "llava-v1.5", "response": "A red bus."},
        {"annotations": aspects("1", "5", "4"), "model": "qwen-vl", "response": "A bus."},
    )
    return {"id": "svit-1", "prompt": "What is it?", "models": ["llava-v1.5", "qwen-vl"], "img_path": "merged/a.jpg",
            "completions": list(given)} | changes  # fmt: skip


@pytest.mark.parametrize("listed", [True, False])
def test_vlfeedback_makes_a_dialogue_per_answer_with_three_aspects(listed: bool, tmp_path: Path) -> None:
    row = vlfeedback()
    if not listed:  # as the datasets library writes a sequence of structs
        row["completions"] = {name: [c[name] for c in row["completions"]] for name in row["completions"][0]}
    path = json_lines(tmp_path / "in" / "vlf.jsonl", [row])
    photos(path.parent, "merged/a.jpg")
    do_import("vlfeedback", path, tmp_path / "out", splits=["prompts", "feedback"])
    (record,) = records(tmp_path / "out", "feedback")
    assert [d.turns[0].assistant for d in record.dialogues] == ["A red bus.", "A bus."]
    assert [d.turns[0].provenance for d in record.dialogues] == [{"responder": "llava-v1.5"}, {"responder": "qwen-vl"}]
    assert record.dialogues[0].extra == {"id": "svit-1", "models": ["llava-v1.5", "qwen-vl"]}
    given = {f.criterion: f for f in record.dialogues[0].turns[0].feedback}
    assert {name: f.rating for name, f in given.items()} == {"helpfulness": 4, "harmlessness": None, "honesty": 2}
    assert given["honesty"].original is not None and given["honesty"].original.value == 3
    assert given["harmlessness"].extra == {"Rating": "N/A"} and given["harmlessness"].critique
    assert len(records(tmp_path / "out", "prompts")[0].dialogues) == 1  # one question


def test_vlfeedback_rows_that_cannot_be_used_have_reasons(tmp_path: Path) -> None:
    def one(**changes: Any) -> dict[str, Any]:
        return vlfeedback({"annotations": aspects("5", "5", "5"), "model": "m", "response": "A bus."} | changes)

    bad = [
        ("bad rating", one(annotations=aspects("6", "5", "5"))),
        ("bad rating", one(annotations=aspects("good", "5", "5"))),
        ("bad rating", one(annotations=aspects("4/5", "5", "5"))),
        ("bad rating", one(annotations=aspects(True, "5", "5"))),
        ("bad field", one(annotations={"Helpfulness": {"Rationale": "No rating."}})),
        ("bad field", one(annotations={"Beauty": {"Rating": "5"}})),
        ("bad field", one(response=None)),
        ("empty text", one(response=" ")),
        ("bad field", vlfeedback(completions=[])),
        ("bad field", vlfeedback(completions={"model": ["a"], "response": []})),
        ("bad field", vlfeedback(img_path=None)),
        ("empty text", vlfeedback(prompt="<image>")),
    ]
    path = json_lines(tmp_path / "in" / "vlf.jsonl", [vlfeedback(), *(row for _, row in bad)])
    photos(path.parent, "merged/a.jpg")
    do_import("vlfeedback", path, tmp_path / "out")
    assert reasons(tmp_path / "out") == [reason for reason, _ in bad]


# --- records -----------------------------------------------------------------------------------


def test_records_come_back_as_they_are(tmp_path: Path) -> None:
    kept = {"version": 1, "key": "mine-1", "source": "me", "image": {"id": "a.jpg", "camera": "x"}, "colour": "red",
            "dialogues": [{"turns": [{"user": "What?", "assistant": "A dog.", "mood": 1}]}]}  # fmt: skip
    json_lines(tmp_path / "in" / "sft.jsonl", [kept])
    json_lines(tmp_path / "in" / "eval" / "part-1.jsonl", [kept | {"key": "mine-2"}])
    open_ = {"key": "mine-3", "image": {"id": "a.jpg"}, "dialogues": [{"turns": [{"user": "Why?"}]}]}
    json_lines(tmp_path / "in" / "mixed.jsonl", [open_, open_ | {"key": "x.y"}, open_ | {"version": 2}, {"key": "k"}])
    photos(tmp_path / "in" / "images", "a.jpg", "b.jpg")
    result = do_import("records", tmp_path / "in", tmp_path / "out", held_out=0)
    assert result.written == {"align": 0, "sft": 1, "prompts": 1, "feedback": 0, "eval": 1}
    assert result.rejected == {"bad field": 2, "nothing to use": 1}
    (record,) = records(tmp_path / "out", "sft")
    assert record.image is not None and record.image.extra == {"camera": "x"}
    assert record.extra == {"colour": "red"} and record.dialogues[0].turns[0].extra == {"mood": 1}
    assert (record.key, record.source) == ("mine-1", "me")
    assert [r.key for r in records(tmp_path / "out", "prompts")] == ["mine-3"]


def test_a_key_stands_for_one_image_and_a_checksum_for_its_bytes(tmp_path: Path) -> None:
    one = {"key": "k", "image": {"id": "a.jpg"}, "dialogues": [{"turns": [{"user": "What?", "assistant": "A dog."}]}]}
    rows = [
        one, one,
        one | {"image": {"id": "b.jpg"}},
        one | {"dialogues": [{"turns": [{"user": "Who?", "assistant": "Rex."}]}]},
        one | {"key": "other", "image": {"id": "a.jpg", "sha256": "0" * 64}},
    ]  # fmt: skip
    path = json_lines(tmp_path / "in" / "mine.jsonl", rows)
    photos(path.parent, "a.jpg", "b.jpg")
    do_import("records", path, tmp_path / "out")
    assert reasons(tmp_path / "out") == ["duplicate row", "two images", "other image"]
    (record,) = records(tmp_path / "out", "sft")
    assert [d.turns[0].user for d in record.dialogues] == ["What?", "Who?"]


# --- all of them -------------------------------------------------------------------------------

SHAPES: list[dict[str, Any]] = [
    {"id": "1", "image": "a.jpg", "conversations": said("<image>\nWhat?", "A dog."), "model": ""}, fire(), vlfeedback(),
    {"image_id": "000000000009.jpg", "caption": "A dog.", "query": "How?", "reference": "No."},
    {"image": "a.jpg", "caption": "A dog.", "instances": [{"category": "dog", "bbox": [0, 0, 1, 1]}]},
    {"key": "k", "image": {"id": "a.jpg"}, "dialogues": [{"turns": [{"user": "What?", "feedback": [{"rating": 3}]}]}]},
    {"id": 9, "file_name": "a.jpg", "width": 9, "height": 9},
    {"id": 9, "image_id": 9, "category_id": 1, "bbox": [1, 2, 3, 4]},
]  # fmt: skip
STRANGE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.just("<image>"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(place for name, inner in inside for place in places(inner, (*here, name)))]


def changed(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    copy = json.loads(json.dumps(value))
    inner = copy
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = new
    return copy


@settings(max_examples=80)
@given(data=st.data(), row=st.sampled_from(SHAPES), new=STRANGE, array=st.sampled_from(["", "images", "annotations"]))
@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_field_of_any_kind_is_used_or_rejected(name: str, data: Any, row: Any, new: Any, array: str) -> None:
    broken = changed(row, data.draw(st.sampled_from(places(row))), new)
    try:
        list(source(name).parts(broken, Place("harmlessness_nlf.jsonl", 1, array)))
    except (RowError, ValidationError) as error:
        assert str(error)


def test_ratings_of_other_scales_are_mapped_and_kept() -> None:
    assert [rating(value, 1, 5)[0] for value in (1, 2, "3", 4.0, "5")] == [1, 2, 2, 3, 4]
    assert [rating(value, 1, 10)[0] for value in range(1, 11)] == [1, 1, 2, 2, 2, 3, 3, 3, 4, 4]
    assert [rating(value, 1, 4) for value in ("1", 4)] == [(1, None), (4, None)]
    for bad in ("2.5", 0, 5, None, True, [1], "four", float("nan"), float("inf"), 10**400):
        with pytest.raises(RowError):
            rating(bad, 1, 4)


@pytest.mark.parametrize("name", sorted(SOURCES.keys() - {"lvlm_nlf"}))
def test_a_folder_without_files_of_the_format_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(photo())
    with pytest.raises(SourceError, match=r"expected .*json.* in it"):
        do_import(name, tmp_path / "in", tmp_path / "out")
