"""Every command of the README and of docs/ runs, in its order, in an empty folder, with `debug=fast_dev_run`."""

from __future__ import annotations

import os
import re
import shlex

import pytest
from documented import PUBLIC, commands, run, run_together

OURS = [command for command in commands() if "data/coco" not in " ".join(command)]
PHOTOS = [command for command in commands() if "data/coco" in " ".join(command)]


def each(found, cwd):
    """As a reader does: a process for each command."""
    return [run(command, cwd) for command in found]


WAYS = pytest.mark.parametrize("way", [run_together, pytest.param(each, marks=pytest.mark.slow)])


@WAYS
def test_the_commands_of_the_readme_run(tmp_path, way):
    assert len(OURS) >= 10
    outputs = dict(zip(map(shlex.join, OURS), way(OURS, tmp_path), strict=True))
    assert (tmp_path / "logs" / "latest" / "report.html").exists()
    assert "is finished" in outputs["python src/train.py resume=logs/latest"]
    assert "Write a caption." in outputs["python src/train.py show=batch"]
    assert (tmp_path / "data" / "feedback" / "shard-000000.tar").exists()


@WAYS
@pytest.mark.public_data
def test_the_photo_commands_of_the_readme_run(tmp_path, way):
    if not PUBLIC.is_dir():
        pytest.skip(f"not run: no public data at {PUBLIC} (set DRESS_PUBLIC_DATA)")
    assert [command[1] for command in PHOTOS] == ["src/prepare.py", "src/train.py"]
    way(PHOTOS, tmp_path)
    assert "nobody should expect good captions" in (tmp_path / "logs" / "latest" / "report.html").read_text()


def test_a_documented_command_that_fails_is_named(tmp_path):
    with pytest.raises(AssertionError, match=r"python src/train.py no_such=1\n[\s\S]*no such setting"):
        run_together([["python", "src/train.py", "no_such=1"], ["python", "src/train.py"]], tmp_path)
    assert not os.listdir(tmp_path)


def test_commands_are_what_stands_in_blocks():
    assert ["python", "src/train.py", "resume=logs/latest"] in commands()
    assert all(re.fullmatch(r"(src|benchmarks)/\w+\.py", script) for _, script, *_ in commands())
