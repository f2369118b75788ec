"""What is printed: foreign text is neither markup nor a terminal's control sequence; any encoding will do."""

from __future__ import annotations

import io
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from dress.base.files import read_json, read_lines, write_json, write_lines
from dress.base.progress import CurriculumProgress
from dress.base.terminal import Terminal, visible

HOSTILE = "name [/b] [bold]x[/bold] :smile: \x1b[31mred\x1b]0;title\x07 \x9b2J \x7f \u202egnp"
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def shown(*, terminal: bool = False) -> tuple[Terminal, io.StringIO]:
    file = io.StringIO()
    return Terminal(file=file, width=200, force_terminal=terminal, color_system=None), file


def test_foreign_text_is_shown_as_it_is_in_lines_tables_and_titles() -> None:
    console, file = shown()
    table = Table(HOSTILE, title=HOSTILE)
    table.add_row(HOSTILE)
    table.add_row(Text(HOSTILE))
    for what in (HOSTILE, Text(HOSTILE), table):
        console.print(what)
    text = file.getvalue()
    assert not CONTROL.search(text)
    assert text.count("name [/b] [bold]x[/bold] :smile: ␛[31mred␛]0;title") == 6
    assert text.count("�2J ␡ �gnp") == 6


@pytest.mark.parametrize("terminal", [False, True])
def test_foreign_text_is_shown_as_it_is_in_progress(terminal: bool) -> None:
    console, file = shown(terminal=terminal)
    with CurriculumProgress(console, {}) as progress:
        progress.start("stage [/b]\x1b[2J", 3)
        progress.advance(3, "failed ([/i] \x9b2J 1)")
        progress.end()
    text = file.getvalue()
    assert "stage [/b]␛[2J" in text and "failed ([/i] �2J 1)" in text
    assert "\x1b[2J" not in text and "\x9b" not in text


@given(st.text())
def test_what_is_visible_holds_no_control_character_and_keeps_its_length(text: str) -> None:
    seen = visible(text)
    assert len(seen) == len(text) and not CONTROL.search(seen) and visible(seen) == seen
    console, file = shown()
    console.print(text, soft_wrap=True, end="")
    assert not CONTROL.search(file.getvalue())
    assert file.getvalue().count("[") == text.count("[")


PRINTS = """
from pathlib import Path
from dress.run.command_line import entry_point
from dress.base.terminal import Terminal

@entry_point("prepare")
def main(composed):
    Terminal().print("91.2\u2013\u2191 \ud83d")
    raise ValueError("\u2026 [/b] \x1b[31m\u00e9")

main()
"""


@pytest.mark.parametrize(
    ("locale", "out", "error"),
    [
        ({"LC_ALL": "C", "PYTHONUTF8": "0"}, r"91.2\u2013\u2191 \ud83d", r"\u2026 [/b] \u241b[31m\xe9"),
        ({"PYTHONUTF8": "1"}, "91.2–↑ \\ud83d", "… [/b] ␛[31mé"),
    ],
)
def test_every_encoding_takes_every_text(tmp_path: Path, locale: dict[str, str], out: str, error: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(PRINTS.encode("utf-8", "backslashreplace").decode(), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script), "source=vlsafe", "path=x", f"out={tmp_path / 'out'}"],
        capture_output=True, check=False, cwd=tmp_path, timeout=60,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")} | locale,
    )  # fmt: skip
    assert (done.returncode, done.stdout.decode().strip()) == (1, out)
    assert done.stderr.decode().startswith(error)


def test_a_suite_ends_well_where_the_output_is_ascii(tmp_path: Path) -> None:
    (tmp_path / "captions.json").write_text(json.dumps([{"image_id": 1, "caption": "A dog"}]))
    (tmp_path / "objects.json").write_text(json.dumps({"1": ["dog"]}))
    done = subprocess.run(
        [sys.executable, str(ROOT / "src" / "eval.py"), "suite=chair", "captions=captions.json",
         "objects=objects.json", "out=out"],
        capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60,
        env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "COLUMNS": "100"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert r"\u2193 invented mentions (CHAIR_i), %" in done.stdout and done.stdout.isascii()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_written_as_null(tmp_path: Path, value: float) -> None:
    data = {"a": value, "b": [1.5, value, {"c": (value, "NaN", 1)}]}
    write_json(tmp_path / "a.json", data)
    write_lines(tmp_path / "a.jsonl", [data, {"d": 2}])
    plain = {"a": None, "b": [1.5, None, {"c": [None, "NaN", 1]}]}
    assert read_json(tmp_path / "a.json") == plain
    assert read_lines(tmp_path / "a.jsonl") == [plain, {"d": 2}]
