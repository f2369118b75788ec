"""Lays out the pages of the site: docs/, whatever its links name elsewhere in the repository, notebooks as pages.

    python docs/pages.py build/pages

Links that leave docs/ (`../configs/…`) work where the repository is browsed. In the copies they lead to a copy of what
they name, below the same path. A link to nothing stays as it is: the strict build reports it (`make docs`).
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat

DOCS = Path(__file__).resolve().parent
SHOWN = (".md", ".svg", ".png", ".css")
"""What is taken from docs/ whether a link names it or not."""
_LINK = re.compile(r"^```.*?^```|`[^`\n]+`|(?<=\]\()(?P<target>[^)\s#:]+)(?=[)#])", flags=re.DOTALL | re.MULTILINE)


def lay_out(out: Path, docs: Path = DOCS) -> None:
    """Write the pages, and what they link to, into a folder that is made anew.

    Args:
        out: becomes MkDocs' `docs_dir`.
        docs: the folder of the pages; its parent is the repository.
    """
    shutil.rmtree(out, ignore_errors=True)
    copied: set[Path] = set()
    waiting = sorted(file for file in docs.rglob("*") if file.suffix in SHOWN)
    while waiting:
        file = waiting.pop()
        if file in copied:
            continue
        copied.add(file)
        place = out / _place(file, docs)
        place.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix not in (".md", ".ipynb"):
            shutil.copyfile(file, place)
            continue
        text = page_of_notebook(file) if file.suffix == ".ipynb" else file.read_text(encoding="utf-8")
        place.write_text(_LINK.sub(_follow(file, docs, waiting), text), encoding="utf-8")


def page_of_notebook(file: Path) -> str:
    """A notebook as Markdown: its texts, its code, and what the code gave."""
    parts = []
    for cell in nbformat.read(file, as_version=4).cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        elif cell.cell_type == "code":
            parts += [f"```python\n{cell.source}\n```", *map(_output, cell.outputs)]
    return "\n\n".join(parts) + "\n"


def _output(output: nbformat.NotebookNode) -> str:
    """What a cell gave: a picture, Markdown, or a text."""
    data = output.get("data", {})
    if "image/png" in data:
        return f"![What the cell above gave](data:image/png;base64,{''.join(data['image/png'].split())})"
    if "text/markdown" in data:
        return data["text/markdown"]
    text = output.text if output.output_type == "stream" else data.get("text/plain", "")
    return f"```text\n{text.rstrip()}\n```"


def _follow(page: Path, docs: Path, waiting: list[Path]) -> Callable[[re.Match[str]], str]:
    """What a link of a page becomes; files outside docs/ join those that wait to be copied."""

    def link(match: re.Match[str]) -> str:
        if match["target"] is None:  # code
            return match[0]
        file = (page.parent / match["target"]).resolve()
        inside = docs in file.parents and docs in page.parents
        if inside or docs.parent not in file.parents or not file.is_file():
            return match[0]
        waiting.append(file)
        return Path(os.path.relpath(_place(file, docs), _place(page, docs).parent)).as_posix()

    return link


def _place(file: Path, docs: Path) -> Path:
    """Where a file lies in the site."""
    path = file.relative_to(docs if docs in file.parents else docs.parent)
    return path.with_suffix(".md") if path.suffix == ".ipynb" else path


if __name__ == "__main__":
    lay_out(Path(sys.argv[1]))
