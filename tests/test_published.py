"""A published folder carries its types: what stands in its card fits every row, and `datasets` loads every split."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_export import export, picture, samples, splits  # noqa: F401  # a fixture

from dress.data.shards import Shards, write_shards
from dress.exports.features import features
from dress.record import Feedback, ImageAnnotation, ImageRef, Object, Original, Record

LOAD = """
import json, sys, datasets
splits = datasets.load_dataset(sys.argv[1], cache_dir=sys.argv[2])
rows = {name: [row["json"] for row in split.select_columns(["json"])] for name, split in splits.items()}
sizes = {name: [image and image.size for image in split["png"]] for name, split in splits.items()}
turns = splits[min(splits)].features["json"]["dialogues"].feature["turns"].feature
print(json.dumps({"rating": turns["feedback"].feature["rating"].dtype, "rows": rows, "sizes": sizes}))
"""
SCALARS: dict[str, type | tuple[type, ...]] = {"string": str, "int64": int, "float64": (int, float), "json": dict}


def rich_record() -> Record:
    """Every field of a record filled, and one that is nobody's."""
    record, _ = samples()[0]
    whole = record.model_copy(deep=True)
    whole.key, whole.extra = "rich", {"own": {"free": [1, None, "x"]}}
    whole.annotation = ImageAnnotation(captions=["A bus."], objects=[Object(label="bus", box=(0, 0.1, 0.5, 1))])
    original = Original(value=4.5, min=0, max=10)
    whole.dialogues[0].turns[0].feedback.append(Feedback(criterion="honesty", rating=2, original=original))
    whole.dialogues[0].turns[0].provenance = {"responder": "mine", "finish_reason": "stop", "seed": 3}
    return whole


@pytest.fixture
def published(splits: Path, tmp_path: Path) -> Path:  # noqa: F811  # the fixture
    text = Record(key="plain", image=ImageRef(id="plain.png"))
    write_shards(splits / "align", [(text, picture(7))])
    write_shards(splits / "eval", [(rich_record(), picture(9))])
    export(splits, tmp_path / "out", "dataset", license="mit", title="Typed")
    return tmp_path / "out"


def columns(folder: Path) -> dict[str, dict[str, Any]]:
    front = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    (config,) = front["configs"]
    assert front["dataset_info"]["config_name"] == config["config_name"]
    return {column["name"]: column for column in front["dataset_info"]["features"]}


def misfits(feature: dict[str, Any] | list[dict[str, Any]] | str, value: Any, where: str) -> list[str]:
    """Where a value is not as its feature says: keys of objects, kinds of values, lengths of lists."""
    if isinstance(feature, list):
        feature = {"struct": feature}
    if isinstance(feature, str):
        feature = {"dtype": feature}
    if value is None:
        return []
    if "struct" in feature:
        fields = {field["name"]: field for field in feature["struct"]}
        if value.keys() != fields.keys():
            return [f"{where}: {sorted(value.keys() ^ fields.keys())}"]
        return [miss for name, field in fields.items() for miss in misfits(field, value[name], f"{where}.{name}")]
    if "list" in feature:
        wrong = [where] if len(value) != feature.get("length", len(value)) else []
        return wrong + [miss for item in value for miss in misfits(feature["list"], item, where)]
    return [] if isinstance(value, SCALARS[feature["dtype"]]) else [f"{where}: {value!r}"]


def test_the_types_in_the_card_are_those_of_the_rows(published: Path) -> None:
    described = columns(published)
    assert [(name, column["dtype"]) for name, column in described.items() if name != "json"] == [
        ("png", "image"), ("__key__", "string"), ("__url__", "string")
    ]  # fmt: skip
    for split in sorted(path for path in published.iterdir() if path.is_dir()):
        for record, _ in Shards(split):
            assert misfits(described["json"], json.loads(record.dump()), split.name) == []
    assert misfits(described["json"], json.loads(rich_record().dump()) | {"dialogues": [{}]}, "bad")


def test_captions_of_somebody_else_have_types_too() -> None:
    assert [(column["name"], column["dtype"]) for column in features({"jpg", "json", "txt"}, records=False)] == [
        ("jpg", "image"), ("json", "json"), ("txt", "string"), ("__key__", "string"), ("__url__", "string")
    ]  # fmt: skip


@pytest.fixture(scope="module")
def datasets_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own with the newest `datasets` of the index."""
    folder = tmp_path_factory.mktemp("datasets") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "-q", "datasets>=4.7", "pillow"], check=True, timeout=600)
    return python


@pytest.mark.slow
def test_datasets_loads_every_split_with_its_types(published: Path, datasets_python: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [str(datasets_python), "-c", LOAD, str(published), str(tmp_path / "cache")],
        capture_output=True, text=True, check=False, env={"HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert loaded["rating"] == "int64" and loaded["rows"].keys() == {"align", "eval", "feedback", "prompts"}
    for split, rows in loaded["rows"].items():
        samples_of = list(Shards(published / split))
        assert rows == [json.loads(record.dump()) for record, _ in samples_of]
        assert [size is None for size in loaded["sizes"][split]] == [image is None for _, image in samples_of]


@pytest.mark.slow
def test_datasets_loads_one_split(datasets_python: Path, tmp_path: Path) -> None:
    write_shards(tmp_path / "one", samples(), per_shard=2)
    export(tmp_path / "one", tmp_path / "out", "dataset", license="mit")
    done = subprocess.run(
        [str(datasets_python), "-c", LOAD, str(tmp_path / "out"), str(tmp_path / "cache")],
        capture_output=True, text=True, check=False, env={"HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert [row["key"] for row in json.loads(done.stdout.splitlines()[-1])["rows"]["train"]] == [
        "bus", "text", "lost", "alone"
    ]  # fmt: skip
