"""The commands of docs/hf_models.md, with a small checkpoint in the place of a large one."""

import pytest
from documented import commands, run
from families import checkpoint

pytestmark = pytest.mark.documented


@pytest.mark.slow  # whole runs
def test_commands_of_the_page_work(tmp_path):
    (tmp_path / "models").mkdir()
    checkpoint("qwen2_5_vl", tmp_path / "models").rename(tmp_path / "models" / "Qwen2.5-VL-3B-Instruct")
    typed = commands("docs/hf_models.md")
    assert len(typed) == 2
    shown = run(typed[1], tmp_path)
    assert "<|vision_start|>" in shown and "image: " in shown
    assert "report:" in run(typed[0], tmp_path)
