"""What stands in a page that DRESS wrote, as a browser would take it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Collection
from html.parser import HTMLParser
from typing import Any

VOID = ("meta", "img", "br", "input")


class Parsed(HTMLParser):
    """A page without JavaScript: its elements, its texts, and what its scripts hold.

    Attributes:
        tags: names and attributes, in order.
        open: elements that nobody closed.
        rows: texts of the cells of every table row.
        charts: title of each figure to its Vega-Lite specification.
        cards: text of each article that is no case.
        cases: text of each article that is filtered, by its id.
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
        self.cases: dict[str, str] = {}
        self._case = ""
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
            self._case = dict(attrs).get("id") or ""
            if self._case:
                self.cases[self._case] = ""
            else:
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
            if "article" in self.open and self._case:
                self.cases[self._case] = words([self.cases[self._case], data])
            elif "article" in self.open:
                self.cards[-1] = words([self.cards[-1], data])

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        """Of each element of this name."""
        return [attributes for name, attributes in self.tags if name == tag]

    def fetched(self) -> list[str | None]:
        """What a browser would load from elsewhere; a place on the page is here."""
        loading = ("src", "href", "srcset", "action", "data")
        addresses = [attributes[name] for _, attributes in self.tags for name in loading if name in attributes]
        return [address for address in addresses if not (address or "").startswith(("data:image/", "#"))]

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


class Styled:
    """A page of cases as its own rules show it, where a browser knows `:has`: the selectors are read, not assumed.

    Args:
        page: its HTML.

    Attributes:
        ticked: ids of the inputs that are when it opens.
    """

    def __init__(self, page: str) -> None:
        tags = Parsed(page).tags
        self.cases = {str(a["id"]): set(str(a["class"]).split()) for n, a in tags if n == "article" and "id" in a}
        self.inputs = {str(a["id"]): a for n, a in tags if n == "input" and "id" in a}
        self.ticked = {name for name, attributes in self.inputs.items() if "checked" in attributes}
        self.anchors = {str(a["id"]): set(str(a["class"]).split()) for n, a in tags if n == "p" and "id" in a}
        style = page.partition("<style>")[2].partition("</style>")[0]
        rules = re.findall(r"^(main:has.*?)\{(.*?)\}$", style, re.M)
        self.rules = [(selector, what) for selectors, what in rules for selector in selectors.split(",")]

    def shown(self, ticked: Collection[str], target: str = "") -> set[str]:
        """Ids of the cases that are shown.

        Args:
            ticked: ids of the inputs that are.
            target: the place on the page that the address names.
        """
        hiding = [
            s for s, what in self.rules if what == "display:none" and " .case" in s and self._met(s, ticked, target)
        ]
        hidden = {case for selector in hiding for case in self.cases if self._matches(selector, case)}
        return set(self.cases) - hidden

    def _met(self, selector: str, ticked: Collection[str], target: str) -> bool:
        for negated, inner in re.findall(r"(:not\()?:has\(((?:[^()]|\([^()]*\))*)\)", selector):
            if inner.endswith(":target"):
                name = inner.removesuffix(":target")
                own = self.anchors.get(target, set()) if name.startswith(".") else {target}
                met = set(name.strip(".#").split(".")) <= own
            else:
                name, _, state = inner.removeprefix("#").partition(":")
                assert name in self.inputs, name
                met = (name in ticked) is (state == "checked")
            if met is bool(negated):
                return False
        return True

    def _matches(self, selector: str, case: str) -> bool:
        element = selector.rpartition(" ")[2].removeprefix(".case")
        if other := re.fullmatch(r":not\(\.(.+)\)", element):
            return other[1] not in self.cases[case]
        return element.removeprefix(".") in self.cases[case]
