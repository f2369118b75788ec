"""Every command of docs/changing.md, and every setting that its tables name."""

from __future__ import annotations

import re

import pytest
from conftest import ROOT, composed
from documented import commands, run_all

PAGE = "docs/changing.md"


@pytest.mark.documented
@pytest.mark.slow  # five whole runs
def test_the_commands_run(tmp_path) -> None:
    typed = commands(PAGE)
    assert len(typed) == 5
    run_all(typed, tmp_path)


def test_the_settings_of_the_tables_exist() -> None:
    settings = composed("scale=small").model_dump()
    rows = re.findall(r"^\| (`[^|]+) \|", (ROOT / PAGE).read_text(), flags=re.M)
    assert len(rows) == 17
    for row in rows:
        first, *others = re.findall(r"`([^`]+)`", row)
        for name in (first, *(f"{first.rpartition('.')[0]}{other}" for other in others)):
            place = settings
            for part in name.split("."):
                assert part in place, name
                place = place[part]
