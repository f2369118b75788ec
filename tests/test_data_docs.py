"""Every command of docs/data.md, in a folder that holds what it names."""

from __future__ import annotations

import webdataset
from test_readme import commands, run

from dress.data.shards import write_shards
from dress.worlds.shapes import generate as shapes


def test_the_commands_of_the_data_page_run(tmp_path):
    for split in shapes.SPLITS:
        write_shards(tmp_path / "data" / "mine" / split, shapes.samples(split, 12, seed=0))
    image = next(iter(shapes.samples("sft", 1, seed=0)))[1]
    (tmp_path / "data" / "theirs").mkdir()
    with webdataset.TarWriter(str(tmp_path / "data" / "theirs" / "x.tar")) as writer:
        for number in range(8):
            writer.write({"__key__": f"{number:03d}", "png": image, "txt": "a red circle", "cls": 1})
    found = commands("docs/data.md")
    assert len(found) == 8
    for command in found:
        more = {
            "src/train.py": ["annotator=oracle", "judge=oracle"],
            "benchmarks/data.py": [
                "--megabytes=1", "--photos=2", "--rounds=1", "--no-litdata", f"--out={tmp_path / 'results'}"
            ],
        }  # fmt: skip
        run(command + more.get(command[1], []), tmp_path)
    assert (tmp_path / "results" / "data.json").exists()
