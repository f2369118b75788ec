"""Every command of docs/data.md, in a folder that holds what it names."""

from __future__ import annotations

import json

import pytest
import webdataset
from documented import commands, run_all

from dress.data.shards import write_shards
from dress.worlds.shapes import generate as shapes


@pytest.mark.documented
@pytest.mark.slow  # benchmarks among them
def test_the_commands_of_the_data_page_run(tmp_path):
    for split in shapes.SPLITS:
        write_shards(tmp_path / "data" / "mine" / split, shapes.samples(split, 12, seed=0))
    image = next(iter(shapes.samples("sft", 1, seed=0)))[1]
    (tmp_path / "data" / "theirs").mkdir()
    with webdataset.TarWriter(str(tmp_path / "data" / "theirs" / "x.tar")) as writer:
        for number in range(8):
            writer.write({"__key__": f"{number:03d}", "png": image, "txt": "a red circle", "cls": 1})
    found = commands("docs/data.md")
    assert len(found) == 10
    more = {
        "src/train.py": ["annotator=oracle", "judge=oracle"],
        "benchmarks/data.py": [
            "--megabytes=1", "--photos=2", "--rounds=1", "--no-litdata", f"--out={tmp_path / 'results'}"
        ],
        "benchmarks/index.py": [
            "samples=400", "shards=4", "ranks=1", "workers=1", f"out={tmp_path / 'results' / 'index.json'}"
        ],
        "benchmarks/import_rows.py": ["--megabytes=1", "--workers=1", f"--out={tmp_path / 'results' / 'rows.json'}"],
    }  # fmt: skip
    run_all([command + more.get(command[1], []) for command in found], tmp_path)
    assert (tmp_path / "results" / "data.json").exists()
    index = json.loads((tmp_path / "results" / "index.json").read_text())
    assert index["samples"] == 400 and index["bytes_per_sample"] < 100 + 8000 / 400
    assert index["ranks"] == 1 and index["mib_of_the_dataset"] < 100
    rows = json.loads((tmp_path / "results" / "rows.json").read_text())
    assert rows["bytes"] > 1e6 and rows["imports"][0]["rows_used"] == rows["rows"]
