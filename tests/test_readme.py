"""Every command of the README and of docs/ runs, in its order, in an empty folder, with `debug=fast_dev_run`."""

from __future__ import annotations

import os
import re
import shlex

import pytest
from documented import PUBLIC, commands, run_all

OURS = [command for command in commands() if "data/coco" not in " ".join(command)]
PHOTOS = [command for command in commands() if "data/coco" in " ".join(command)]


@pytest.mark.slow
@pytest.mark.documented
def test_the_commands_of_the_readme_run(tmp_path):
    assert len(OURS) >= 10
    outputs = dict(zip(map(shlex.join, OURS), run_all(OURS, tmp_path), strict=True))
    assert (tmp_path / "logs" / "latest" / "report.html").exists()
    assert "is finished" in outputs["python src/train.py resume=logs/latest"]
    assert "Write a caption." in outputs["python src/train.py show=batch"]
    assert (tmp_path / "data" / "feedback" / "shard-000000.tar").exists()


@pytest.mark.documented
@pytest.mark.public_data
@pytest.mark.slow
def test_the_photo_commands_of_the_readme_run(tmp_path):
    if not PUBLIC.is_dir():
        pytest.skip(f"not run: no public data at {PUBLIC} (set DRESS_PUBLIC_DATA)")
    assert [command[1] for command in PHOTOS] == ["src/prepare.py", "src/train.py"]
    run_all(PHOTOS, tmp_path)
    assert "nobody should expect good captions" in (tmp_path / "logs" / "latest" / "report.html").read_text()


def test_a_documented_command_that_fails_is_named(tmp_path):
    with pytest.raises(AssertionError, match=r"python src/train.py no_such=1\n[\s\S]*no such setting"):
        run_all([["python", "src/train.py", "no_such=1"], ["python", "src/train.py"]], tmp_path)
    assert not os.listdir(tmp_path)


def test_commands_are_what_stands_in_blocks():
    assert ["python", "src/train.py", "resume=logs/latest"] in commands()
    assert all(re.fullmatch(r"(src|benchmarks)/\w+\.py", script) for _, script, *_ in commands())
