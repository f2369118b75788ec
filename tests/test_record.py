"""The record: what is refused, and what the message says."""

from __future__ import annotations

import json

import pytest

from dress.record import Record, RecordError

GOOD = {
    "version": 1,
    "key": "coco-000000151112",
    "source": "lvlm_nlf/harmlessness",
    "image": {"id": "000000151112.jpg", "sha256": None},
    "annotation": {"captions": ["A bus."], "objects": [{"label": "bus", "box": [0.1, 0.2, 0.8, 0.9]}]},
    "dialogues": [
        {
            "criterion": "harmlessness",
            "reference": None,
            "turns": [
                {
                    "user": "How?",
                    "assistant": "No.",
                    "feedback": [{"criterion": "harmlessness", "rating": 2, "critique": "c", "refinement": "r"}],
                    "provenance": {"responder": "x"},
                }
            ],
        }
    ],
    "extra": {},
}


def changed(path: str, value: object) -> str:
    data = json.loads(json.dumps(GOOD))
    *parents, last = path.split(".")
    part = data
    for name in parents:
        part = part[int(name) if name.isdigit() else name]
    part[last] = value
    return json.dumps(data)


def test_a_record_comes_back_as_it_was():
    record = Record.parse(json.dumps(GOOD), "here")
    assert Record.parse(record.dump(), "again") == record
    assert record.dialogues[0].turns[0].rating == 2


def test_unknown_fields_are_kept_in_extra():
    record = Record.parse(changed("licence", "CC-BY"), "here")
    assert record.extra == {"licence": "CC-BY"}


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("dialogues.0.criterion", "kindness", "dialogues.0.criterion"),
        ("dialogues.0.turns.0.feedback.0.rating", 5, "dialogues.0.turns.0.feedback.0.rating"),
        ("dialogues.0.turns.0.feedback.0.rating", "4 stars", "4 stars"),
        ("dialogues.0.turns.0.feedback.0.rating", "4", "dialogues.0.turns.0.feedback.0.rating"),
        ("dialogues.0.turns", [], "dialogues.0.turns"),
        ("key", "../up", "key"),
        ("key", "a.b", "key"),
        ("version", 2, "version"),
        ("image", 7, "image"),
    ],
)
def test_what_does_not_fit_is_refused_with_file_field_and_value(path, value, named):
    with pytest.raises(RecordError) as error:
        Record.parse(changed(path, value), "shard-000001.tar: some-key")
    assert "shard-000001.tar: some-key" in str(error.value)
    assert named in str(error.value)


def test_no_json_is_refused():
    with pytest.raises(RecordError, match=r"a\.tar"):
        Record.parse(b"\xff\xfe{", "a.tar")


def test_a_deep_json_is_refused_and_does_not_crash():
    with pytest.raises(RecordError):
        Record.parse(b'{"key": "a", "extra": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}", "a.tar")
