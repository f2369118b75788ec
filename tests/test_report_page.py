"""Every command of docs/report.md runs, in its order, on two small runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from documented import ROOT, commands
from test_compare import make, typed, worsened  # noqa: F401  # fixtures
from test_report import ALL, SAMPLES, run_folder

from dress.base.files import read_json, write_json
from dress.data.shards import write_shards

PAGE = "docs/report.md"


def test_the_commands_of_the_page_run(
    tmp_path: Path,
    make: Callable[..., Path],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_shards(tmp_path / "shards" / "eval", iter(SAMPLES), 100)
    files = ["data=shards", f"data.path={tmp_path / 'shards'}", "annotator=oracle", "judge=oracle"]
    make("logs/first", ALL, *files)
    second = make("logs/second", worsened(ALL), *files)
    run_folder(second / "eval", worsened(ALL), stages=False)
    write_json(second / "eval" / "run.json", {"settings": {"ckpt": "logs/second", "judge": {"kind": "rules"}}})
    found = commands(PAGE)
    assert len(found) == 3
    said = []
    for python, script, *arguments in found:
        assert (python, script) == ("python", "src/eval.py")
        said.append(typed(*arguments)[1])
    assert "A was judged by oracle, B by rules." in said[2] and "Only A has dress/none, sft/none" in said[1]
    for folder in ("compare", "other", "eval/compare"):
        assert {"compare.html", "compare.json", "a.jsonl", "b.jsonl", "run.json"} == {
            file.name for file in (second / folder).iterdir()
        }
    assert read_json(second / "other" / "compare.json")["cells"]["dress/praise"]["second"] == "dress/none"


def test_the_page_is_short() -> None:
    lines = (ROOT / PAGE).read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150 and max(map(len, lines)) <= 200
