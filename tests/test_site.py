"""The site builds strictly from docs/: every page is in its navigation, every link and anchor leads somewhere."""

from __future__ import annotations

import importlib.util
import logging
import re
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import griffe
import pytest
from conftest import ROOT
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

PAGES = sorted((ROOT / "docs").rglob("*.md"))
START = ("no_feedback.md", "given_feedback.md", "cluster.md", "only_evaluate.md")
"""What a researcher has: one page for each."""


@pytest.fixture(scope="module")
def layout() -> ModuleType:
    """docs/pages.py, which is a script and no module of the package."""
    spec = importlib.util.spec_from_file_location("docs_pages", ROOT / "docs" / "pages.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build_strictly(pages: Path, site: Path, **settings: object) -> None:
    """What `make docs` does with the pages that are laid out, by the settings of mkdocs.yml."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        config = str(ROOT / "mkdocs.yml")
        build(load_config(config_file=config, docs_dir=str(pages), site_dir=str(site), strict=True, **settings))


@pytest.fixture(scope="module")
def site(layout: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    layout.lay_out(folder / "pages")
    build_strictly(folder / "pages", folder / "site")
    return folder / "site"


def test_every_page_and_what_it_links_to_is_there(site: Path) -> None:
    for page in PAGES:
        assert (site / page.relative_to(ROOT / "docs")).with_suffix(".html").is_file()
    for file in ("examples/tiny.html", "benchmarks/results/train_step.html", "configs/rubrics/feedback.yaml"):
        assert (site / file).is_file()
    assert 'href="examples/tiny.html"' in (site / "index.html").read_text()
    assert 'href="examples/plain_loop.py"' in (site / "hf_models.html").read_text()


def test_docstrings_are_on_the_pages_of_the_package(site: Path) -> None:
    texts = {page: words_of(site / "api" / f"{page}.html") for page in ("python", "record", "objectives", "raters")}
    assert "Train as dress train OVERRIDES does" in texts["python"] and "trust_targets" in texts["python"]
    assert "The tuple: image, annotation, dialogues with feedback." in texts["record"]
    assert "Pairs of unlike ratings within a group" in texts["objectives"] and "gives rating" in texts["raters"]


def words_of(page: Path) -> str:
    """Words of a page of the site."""
    return " ".join(re.sub(r"<[^>]+>", "", page.read_text()).split())


def test_a_page_fetches_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page.read_text()):
            assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", tag), (page, tag)


SMALL = {
    "index.md": "# One\n\n[two](two.md#a-place)\n",
    "two.md": "# Two\n\n## A place\n\n![a picture](a.svg)\n",
    "a.svg": "<svg/>",
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, ""),
        ({"three.md": "# Three\n"}, 'not included in the "nav" configuration'),
        ({"index.md": "# One\n\n[two](tow.md)\n"}, "'tow.md', but the target is not found"),
        ({"index.md": "# One\n\n[two](two.md#another-place)\n"}, "does not contain an anchor '#another-place'"),
        ({"index.md": "# One\n\n[x](../src/x.py)\n"}, "'../src/x.py'"),
        ({"two.md": "# Two\n\n## A place\n\n![a picture](b.svg)\n"}, "'b.svg', but the target is not found"),
        ({"two.md": "# Two\n\n## A place\n\n::: dress.record.Recrod\n"}, "dress.record.Recrod could not be found"),
    ],
)  # fmt: skip
def test_what_leads_nowhere_fails_the_build(
    change: dict[str, str], message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, text in (SMALL | change).items():
        (tmp_path / "pages" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "pages" / name).write_text(text)
    settings: dict[str, object] = {"nav": ["index.md", "two.md"]}
    if not message:
        build_strictly(tmp_path / "pages", tmp_path / "site", **settings)
        return
    with pytest.raises(Abort):
        build_strictly(tmp_path / "pages", tmp_path / "site", **settings)
    assert message in caplog.text


def test_links_that_leave_the_pages_lead_to_copies(layout: ModuleType, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    for name, text in {
        "docs/index.md": "[a](../src/a.py) [`b`](../notes/b.md#x) `[c](../src/a.py)` [d](d.md) [e](https://e) [f](../f)"
        "\n```\n[a](../src/a.py)\n```\n",
        "docs/d.md": "", "docs/api/g.md": "[a](../../src/a.py) [d](../d.md)", "docs/notes.txt": "",
        "src/a.py": "1", "notes/b.md": "# x\n[d](../docs/d.md) [a](../src/a.py)",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    out = tmp_path / "out"
    (out / "old").mkdir(parents=True)
    layout.lay_out(out, docs)
    names = sorted(str(file.relative_to(out)) for file in out.rglob("*") if file.is_file())
    assert names == ["api/g.md", "d.md", "index.md", "notes/b.md", "src/a.py"] and not (out / "old").exists()
    line, *code = (out / "index.md").read_text().splitlines()
    assert line == "[a](src/a.py) [`b`](notes/b.md#x) `[c](../src/a.py)` [d](d.md) [e](https://e) [f](../f)"
    assert code == ["```", "[a](../src/a.py)", "```"]
    assert (out / "api" / "g.md").read_text() == "[a](../src/a.py) [d](../d.md)"
    assert (out / "notes" / "b.md").read_text() == "# x\n[d](../d.md) [a](../src/a.py)"


@pytest.mark.parametrize("page", ["index.md", *START])
def test_a_start_page_is_short_and_its_commands_are_tested(page: str) -> None:
    index, text = ((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("index.md", page))
    assert len(text.splitlines()) <= 150
    if page != "index.md":
        tests = [file.read_text(encoding="utf-8") for file in (ROOT / "tests").glob("test_*_page.py")]
        assert f"]({page}) |" in index and any(f"docs/{page}" in test for test in tests)


def test_lists_and_tables_begin_after_a_blank_line() -> None:
    """GitHub takes them otherwise too; MkDocs' Markdown takes them for words of the paragraph."""
    begins = re.compile(r"(?:[-*] |\d+\. |\|)")
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        for before, line in pairwise(["", *text.splitlines()]):
            inside = not before.strip() or before.startswith(("#", " ")) or begins.match(before)
            assert inside or not begins.match(line), f"{page.name}: a blank line before {line[:60]!r}"


def test_docstrings_name_arguments_that_are_there(caplog: pytest.LogCaptureFixture) -> None:
    """One a line, spelled as in the signature: else its text is on no page."""
    package = griffe.load("dress", search_paths=[str(ROOT / "src")], docstring_parser="google")
    parsed = 0

    def parse(item: griffe.Object | griffe.Alias) -> None:
        nonlocal parsed
        if item.is_alias:
            return
        if item.docstring is not None:
            parsed += len(item.docstring.parsed)
        for member in item.members.values():
            parse(member)

    with caplog.at_level(logging.WARNING):
        parse(package)
    assert parsed > 3000 and [record.message for record in caplog.records] == []
