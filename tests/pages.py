"""What stands in a page that DRESS wrote, as a browser would take it."""

from __future__ import annotations

import base64
import hashlib
import json
from html.parser import HTMLParser
from typing import Any

VOID = ("meta", "img", "br")


class Parsed(HTMLParser):
    """A page without JavaScript: its elements, its texts, and what its scripts hold.

    Attributes:
        tags: names and attributes, in order.
        open: elements that nobody closed.
        rows: texts of the cells of every table row.
        charts: title of each figure to its Vega-Lite specification.
        cards: text of each article.
        text: of the whole page, words separated by single blanks.
        code: what would be run.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.charts: dict[str, dict[str, Any]] = {}
        self.cards: list[str] = []
        self.code: list[str] = []
        self._texts: list[str] = []
        self._title = ""
        self.feed(page)
        self.text = words(self._texts)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "figcaption":
            self._title = ""
        if tag == "article":
            self.cards.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        inside = self.open[-1] if self.open else ""
        if inside == "script" and self.tags[-1][1].get("type") == "application/json":
            self.charts[self._title] = json.loads(data, parse_constant=refuse)
        elif inside == "script":
            self.code.append(data)
        elif inside != "style":
            self._texts.append(data)
            if "td" in self.open or "th" in self.open:
                self.rows[-1][-1] += data
            if inside == "figcaption":
                self._title += data
            if "article" in self.open:
                self.cards[-1] = words([self.cards[-1], data])

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        """Of each element of this name."""
        return [attributes for name, attributes in self.tags if name == tag]

    def fetched(self) -> list[str | None]:
        """What a browser would load from elsewhere."""
        loading = ("src", "href", "srcset", "action", "data")
        addresses = [attributes[name] for _, attributes in self.tags for name in loading if name in attributes]
        return [address for address in addresses if not (address or "").startswith("data:image/")]

    def policy(self) -> str:
        """Its content security policy."""
        metas = (meta for meta in self.attributes("meta") if meta.get("http-equiv") == "Content-Security-Policy")
        return str(next(metas)["content"])


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON: a browser would not draw this chart")


def words(texts: list[str]) -> str:
    """Texts in one line, separated by single blanks."""
    return " ".join(" ".join(texts).split())


def values(chart: dict[str, Any], *fields: str) -> list[tuple[Any, ...]]:
    """What a chart draws: these fields of all values that have them."""
    return [
        tuple(value[field] for field in fields)
        for rows in chart["datasets"].values()
        for value in rows
        if all(field in value for field in fields)
    ]


def digest(script: str) -> str:
    """How a policy names a script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
