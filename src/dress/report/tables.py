"""One table for all that DRESS prints: the terminal by Rich, a page by its template, a paper by LaTeX (booktabs)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

NOTHING = "–"
"""Stands where nothing could be measured."""
_STYLES = {"main": "bold cyan", "base": "bold", "best": "bold", "total": "bold", "alarm": "bold red", "": ""}
_ARROWS = {True: "↑", False: "↓", None: ""}
_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "↑": r"$\uparrow$",
        "↓": r"$\downarrow$", NOTHING: "--"} | {c: "\\" + c for c in "&%$#_{}"}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A figure as text; below it, smaller, its interval and over how many it was taken.

    `weight` is `best` for the best of its column, `alarm` for what must be seen, and empty else.
    """

    text: str
    interval: str = ""
    n: int | None = None
    weight: str = ""


@dataclass(frozen=True)
class Head:
    """The name of a row or column.

    Neighbours of one `group` stand below its name. `up` says whether more is better, None that neither is. `weight`
    is `main` for what the table is about, `base` for what it is compared with, `total` for what sums up the others.
    A terminal shows `short` where there is one.
    """

    name: str
    group: str = ""
    up: bool | None = None
    weight: str = ""
    short: str = ""

    @property
    def arrow(self) -> str:
        """`↑` where more is better, `↓` where less is."""
        return _ARROWS[self.up]


@dataclass(frozen=True)
class Row:
    """A row: its name and a cell for each column."""

    head: Head
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Table:
    """A table of figures.

    Attributes:
        corner: heads the names of the rows.
        columns: the others, one for each cell of a row.
        rows: in order.
        title: stands above; empty for none.
        words: how the table is to be read.
        meanings: name of a figure to what it says, for a page.
    """

    corner: str
    columns: Sequence[Head]
    rows: Sequence[Row]
    title: str = ""
    words: str = ""
    meanings: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_texts(cls, title: str, words: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
        """A table of plain texts, whose first column names the rows."""
        lines = [Row(Head(row[0]), [Cell(text) for text in row[1:]]) for row in rows]
        return cls(head[0], [Head(name) for name in head[1:]], lines, title, words)

    def groups(self) -> list[tuple[str, int]]:
        """Name and width of each group of columns; empty where no column has a group."""
        if not any(column.group for column in self.columns):
            return []
        return [(name, len(list(members))) for name, members in groupby(self.columns, key=lambda head: head.group)]

    def texts(self) -> list[bool]:
        """For each column, whether it holds words, which stand on the left; figures stand on the right."""
        return [any(row.cells[n].text[:1].isalpha() for row in self.rows) for n in range(len(self.columns))]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """So that `console.print` takes it."""
        yield self.rich()

    def rich(self) -> RichTable:
        """For the terminal; names are never markup."""
        title = Text(self.title, style="dim") if self.title else None
        table = RichTable(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=0)
        titles = [_column(head, self.columns[n - 1] if n else None) for n, head in enumerate(self.columns)]
        height = max((title.plain.count("\n") for title in titles), default=0)
        table.add_column(Text("\n" * height + self.corner), overflow="fold")
        for title, head, words in zip(titles, self.columns, self.texts(), strict=True):
            table.add_column(title, justify="left" if words else "right", overflow="fold", style=_STYLES[head.weight])
        group = ""
        for row in self.rows:
            if row.head.group != group:
                group = row.head.group
                table.add_row(Text(group, style="bold underline"))
            if row.head.weight == "total":
                table.add_section()
            name = " ".join(filter(None, (row.head.arrow, row.head.short or row.head.name)))
            style = _STYLES[row.head.weight]
            table.add_row(Text(name), *map(_rich_cell, row.cells), style=style)
        return table

    def latex(self) -> str:
        """A `table` environment; needs the package booktabs."""
        names = [tex(" ".join(filter(None, (head.name, head.arrow)))) for head in self.columns]
        groups = [rf"\multicolumn{{{n}}}{{c}}{{{tex(name)}}}" for name, n in self.groups()]
        rows = [[tex(row.head.name), *map(_tex_cell, row.cells)] for row in self.rows]
        head = [["", *groups]] if groups else []
        lines = [rf"{' & '.join(cells)} \\" for cells in (*head, [tex(self.corner), *names], *rows)]
        lines.insert(len(head) + 1, r"\midrule")
        return "\n".join(
            [
                r"\begin{table}", r"\centering", rf"\caption{{{tex(self.title.capitalize())}}}",
                rf"\begin{{tabular}}{{l{'r' * len(self.columns)}}}", r"\toprule",
                *lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", "",
            ]
        )  # fmt: skip


def tex(text: str) -> str:
    """A text as LaTeX, its special characters escaped."""
    return re.sub(r"[\\~^&%$#_{}↑↓–]", lambda match: _TEX[match[0]], text)


def _column(head: Head, before: Head | None) -> Text:
    """A column's title; the group's name stands above the first of its columns."""
    name = " ".join(filter(None, (head.short or head.name, head.arrow)))
    if not head.group:
        return Text(name)
    first = before is None or before.group != head.group
    return Text(f"{head.group if first else ''}\n{name}")


def _rich_cell(cell: Cell) -> Text:
    text = Text(cell.text, style=_STYLES[cell.weight])
    if cell.n:
        text.append(f" n {cell.n:,}", style="not bold dim")
    if cell.interval:
        text.append(f"\n{cell.interval}", style="not bold dim")
    return text


def _tex_cell(cell: Cell) -> str:
    return rf"\textbf{{{tex(cell.text)}}}" if cell.weight == "best" else tex(cell.text)
