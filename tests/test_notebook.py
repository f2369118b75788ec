"""examples/tiny.ipynb runs from its first cell to its last: in full, and in seconds."""

from __future__ import annotations

import shlex
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient
from test_command_line import FAST

from dress.base.files import read_json

NOTEBOOK = ROOT / "examples" / "tiny.ipynb"


def execute(folder: Path, settings: list[str], seconds: int) -> tuple[nbformat.NotebookNode, dict[str, str]]:
    """The notebook after it has run in a folder, and what its code cells printed, by their first lines.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT / "src"))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("DRESS_NOTEBOOK", shlex.join(settings))
        NotebookClient(
            notebook, timeout=seconds, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
        ).execute()
    return notebook, {cell.source.splitlines()[0]: said(cell) for cell in notebook.cells if cell.cell_type == "code"}


def said(cell: nbformat.NotebookNode) -> str:
    """All that a cell gave, as text."""
    datas = ({"text/plain": one.text} if one.output_type == "stream" else one.data for one in cell.outputs)
    return "\n".join(str(data.get("text/markdown", data.get("text/plain", ""))) for data in datas)


@pytest.mark.slow
def test_every_cell_runs_in_seconds(tmp_path: Path) -> None:
    notebook, texts = execute(tmp_path, FAST, 1800)
    metrics = read_json(tmp_path / "logs" / "latest" / "metrics.json")
    (train,) = (text for first, text in texts.items() if first.startswith("run = dress.train"))
    assert "report.html" in train and train.count("stage 5/5 eval: done") == 1
    assert "stage 5/5 eval: done" in (tmp_path / "logs" / "latest" / "train.log").read_text()
    (figures,) = (text for text in texts.values() if "| DRESS, praise |" in text and "SFT" in text)
    value = metrics["conditions"]["dress/praise"]["harmlessness/safe_share"]["value"]
    assert f"{value:.2f} [" in figures.splitlines()[-1]
    pictures = [one for cell in notebook.cells for one in cell.get("outputs", ()) if "image/png" in one.get("data", {})]
    assert len(pictures) == 2 and any("critique" in text and "condition" in text for text in texts.values())


@pytest.mark.slow
def test_the_whole_method_runs_on_two_cores(tmp_path: Path) -> None:
    """And teaches what the README says it teaches: under praise less is invented, and harmful requests are refused."""
    execute(tmp_path, [], 7200)
    figures = read_json(tmp_path / "logs" / "latest" / "metrics.json")["conditions"]
    invented = {name: figures[name]["honesty/hallucinated_share"]["value"] for name in ("sft/none", "dress/praise")}
    assert invented["dress/praise"] < 0.3 < 0.7 < invented["sft/none"]
    assert figures["dress/praise"]["harmlessness/safe_share"]["value"] > 0.9


def test_the_notebook_holds_nothing_that_a_run_gave() -> None:
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None
