"""Every command of docs/importing.md, on small files of the shapes that it names."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from conftest import ROOT
from documented import PUBLIC, commands
from hydra import compose, initialize_config_dir
from imports import json_lines, photo, photos, records
from omegaconf import OmegaConf
from rich.console import Console
from test_arrow_rows import VLFEEDBACK, parquet
from test_sources import coco, fire, said, vlfeedback

from dress.base.files import read_json
from dress.run.preparing import task
from dress.sources import SOURCES


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """The files that the page's commands read."""
    folder = tmp_path / "raw"
    coco(folder)
    good = {"id": "9", "image": "000000000009.jpg", "conversations": said("<image>\nWhat?", "A dog.")}
    rows = [good, good | {"image": "000000000025.jpg"}, good | {"image": ["000000000030.jpg", "x"]}]
    (folder / "llava_instruct_150k.json").write_text(json.dumps(rows))
    (folder / "pairs.csv").write_text("image,caption\na.jpg,A dog.\nb.jpg,A cat.\n")
    photos(folder / "pictures", "a.jpg", "b.jpg")
    json_lines(folder / "fire" / "fire.jsonl", [fire()])
    json_lines(folder / "vlfeedback.jsonl", [vlfeedback()])
    embedded = vlfeedback(image={"bytes": photo(), "path": "a.jpg"})
    parquet(folder / "VLFeedback" / "data" / "train-00000-of-00001.parquet", [embedded], VLFEEDBACK)
    photos(folder, fire()["image"], "merged/a.jpg")
    turn = {"user": "What?", "model": "A dog.", "rating": "4", "critique NLF": "Right."}
    row = {"image_id": "000000000009.jpg", "caption": "A dog.", "interaction": [turn]}
    json_lines(folder / "LVLM_NLF" / "harmlessness_nlf.jsonl", [row])
    dialogue = {"turns": [{"user": "What?", "assistant": "A dog."}]}
    json_lines(folder / "records" / "sft.jsonl", [{"key": "k", "image": {"id": "a.jpg"}, "dialogues": [dialogue]}])
    photos(folder / "records" / "images", "a.jpg")
    return folder


def run(command: list[str]) -> str:
    console = Console(record=True, width=200, quiet=False, file=open(os.devnull, "w"))  # noqa: SIM115
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        composed = OmegaConf.to_container(compose("prepare", overrides=command[2:]), resolve=True)
    assert isinstance(composed, dict)
    settings, start = task({str(name): value for name, value in composed.items()})
    start(settings, console)
    return console.export_text()


def test_the_commands_of_the_page_run(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(raw.parent)
    found = commands("docs/importing.md")
    assert len(found) == 10 and all(command[:2] == ["python", "src/prepare.py"] for command in found)
    for command in found[1:-1]:
        assert "rows used" in run(command)
    assert (raw.parent / "data" / "captions" / "align" / "shard-000000.tar").exists()
    rejected = raw.parent / "data" / "llava" / "rejects.jsonl"
    kept = json.loads(rejected.read_text())
    kept["row"]["image"] = "000000000030.jpg"
    json_lines(rejected, [kept])
    run(found[-1])  # the first import was told where images are
    repaired = raw.parent / "data" / "llava_repaired"
    assert [r.image and r.image.id for r in records(repaired, "sft")] == [kept["row"]["image"]]
    assert read_json(repaired / "import.json")["images"] == "raw/train2017"


@pytest.mark.public_data
@pytest.mark.skipif(not PUBLIC.is_dir(), reason=f"no public data at {PUBLIC} (set DRESS_PUBLIC_DATA)")
def test_the_command_on_public_files_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = [text.replace("../shared/data", str(PUBLIC)) for text in commands("docs/importing.md")[0]]
    assert "Next: python src/train.py" in run([*first, "splits=[align,sft,prompts,eval]", "held_out=5"])


def test_the_page_and_the_help_name_every_source() -> None:
    page = (ROOT / "docs" / "importing.md").read_text()
    told = (ROOT / "configs" / "prepare.yaml").read_text()
    for name in SOURCES:
        assert f"`{name}`" in page and f" {name} " in told
