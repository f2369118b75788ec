"""HTML pages by Jinja: one file that opens offline, light and dark, narrow and wide.

A page loads nothing: style, pictures and the charts' JavaScript stand inside, and its policy lets nothing else run.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import altair
import jinja2
import vl_convert

from dress.base.files import write_text
from dress.record import TOP_RATING
from dress.report.cards import Card
from dress.report.charts import Chart
from dress.report.facets import Cases, css
from dress.report.tables import Table


@dataclass(frozen=True)
class Section:
    """Tables, charts, cards and cases under a title; `empty` stands for `words` where there are none of them.

    `name` is its address on the page, without `#`.
    """

    title: str
    words: str = ""
    empty: str = ""
    tables: Sequence[Table] = ()
    charts: Sequence[Chart] = ()
    cards: Sequence[Card] = ()
    cases: Cases | None = None
    name: str = ""


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        title: of the browser's window.
        kind: a word above the name.
        name: what the page is about.
        lead: a sentence that says most.
        sections: in order.
        notes: sentences that must be read before the figures.
        facts: name to value; those that are None are left out.
    """

    title: str
    kind: str
    name: str
    lead: str
    sections: Sequence[Section]
    notes: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


def write_page(file: Path, page: Page) -> None:
    """Write a page; the same contents give the same bytes."""
    write_text(file, html(page))


def html(page: Page) -> str:
    """The page as HTML. All of its texts are escaped.

    Raises:
        ValueError: several sections have cases, whose ids would be the same.
    """
    drawn = any(section.charts for section in page.sections)
    script = _script() if drawn else ""
    filtered = [section.cases for section in page.sections if section.cases is not None]
    if len(filtered) > 1:
        raise ValueError(f"{page.title}: expected one section with cases, got {len(filtered)}")
    style = _template_file("style.css") + "".join(map(css, filtered))
    text = _environment().get_template("page.html").render(
        page=page, style=style, script=script, digest=_digest(script), top_rating=TOP_RATING
    )  # fmt: skip
    # A lone surrogate in a model's answer cannot be encoded; it must not cost the page.
    return text.encode("utf-8", "replace").decode()


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("dress.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _template_file(name: str) -> str:
    return files("dress.report").joinpath("templates", name).read_text(encoding="utf-8")


@cache
def _script() -> str:
    """Vega, Vega-Lite and vega-embed, of the version that Altair writes for, and what draws the charts with them."""
    version = altair.SCHEMA_VERSION.removeprefix("v").rpartition(".")[0]
    return vl_convert.javascript_bundle(_template_file("page.js"), version)


def _digest(script: str) -> str:
    """By which the page's policy knows its script."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
