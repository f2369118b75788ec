"""Files of suites, and running one in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dress.base.files import read_json
from dress.config import check_as
from dress.evaluation.command import perform
from dress.evaluation.output import recompute
from dress.evaluation.suite import registered

Json = dict[str, Any]


def lines(path: Path, *rows: Json | str, end: str = "\n") -> str:
    """A file of JSON lines; text stands there as it is."""
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + end for row in rows)
    path.write_bytes(text.encode())
    return str(path)


def evaluate(out: Path, **settings: Any) -> Json:
    """Run a suite in this process; what it wrote must follow from its outcomes alone."""
    if settings["suite"] == "llava_bench":
        settings.setdefault("judge", {"kind": "none"})
    suite = registered()[settings["suite"]]
    result = perform(suite, check_as(suite.settings, {"out": str(out), **settings}), Console(quiet=True))
    assert read_json(out / suite.file) == json.loads(json.dumps(result))
    assert recompute(out) == result
    return result


def evaluate_nothing(out: Path, **settings: Any) -> Json:
    """The same where nothing can be counted: it ends with an error, and the figures say why."""
    with pytest.raises(ValueError, match=r"n = 0, nothing was counted: "):
        evaluate(out, **settings)
    return dict(read_json(out / registered()[settings["suite"]].file))


def ask(number: int, thing: str, image: str = "COCO_val2014_000000000007.jpg") -> Json:
    more = "\nAnswer the question using a single word or phrase."
    return {
        "question_id": number,
        "image": image,
        "text": f"Is there a {thing} in the image?{more}",
        "category": "random",
    }


def label(thing: str, said: str, image: str = "COCO_val2014_000000000007.jpg") -> Json:
    return {"question_id": 999, "image": image, "text": f"Is there a {thing} in the image?", "label": said}


def answer(number: int, thing: str, text: str | None) -> Json:
    return {"question_id": number, "prompt": ask(number, thing)["text"], "text": text}


CAPTIONS = [{"image_id": 1, "caption": "A dog and a cat."}, {"image_id": 2, "caption": "Two dogs on a bed, a car."}]
OBJECTS = {"000000000001.jpg": ["dog", "cat"], "2": ["dog", "chair"]}


def chair_of(tmp_path: Path, captions: str, objects: Any, **more: Any) -> Json:
    file, known = tmp_path / "captions", tmp_path / "objects"
    file.write_bytes(captions.encode())
    known.write_text(objects if isinstance(objects, str) else json.dumps(objects))
    return evaluate(tmp_path / "out", suite="chair", captions=str(file), objects=str(known), **more)
