"""Every command of docs/photos.md composes; with the folders of `make photos` they run."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT
from documented import commands, run_all

from dress.config import Config
from dress.run.composing import compose
from dress.run.preparing import task

PAGE = "docs/photos.md"


def test_the_commands_compose() -> None:
    typed = commands(PAGE)
    assert [Path(script).name for _, script, *_ in typed] == ["prepare.py", "prepare.py", "train.py"]
    for _, script, *arguments in typed:
        if script.endswith("prepare.py"):
            task(compose("prepare", arguments))
        else:
            Config.model_validate(compose("train", [*arguments, "run_dir=unused"]))


@pytest.mark.slow
@pytest.mark.public_data
@pytest.mark.skipif(not (ROOT / "models" / "dinov2-small").is_dir(), reason="`make photos` was not run")
def test_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("documented.SMALL", ["debug=fast_dev_run"])
    (tmp_path / "models").symlink_to(ROOT / "models")
    run_all(commands(PAGE), tmp_path)
