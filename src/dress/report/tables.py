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

    `weight` is `best` for the best of its column, `alarm` for what must be seen, and empty else. `link` is a place on
    the page (`#…`) that shows what the figure is of; only a page has it.
    """

    text: str
    interval: str = ""
    n: int | None = None
    weight: str = ""
    link: str = ""


@dataclass(frozen=True)
class Head:
    """The name of a row or column.

    Neighbours of one `group` stand below its name. `up` says whether more is better, None that neither is. `weight`
    is `main` for what the table is about, `base` for what it is compared with, `total` for what sums up the others.
    """

    name: str
    group: str = ""
    up: bool | None = None
    weight: str = ""

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
        short: name of a column or group to a shorter one, for a terminal.
    """

    corner: str
    columns: Sequence[Head]
    rows: Sequence[Row]
    title: str = ""
    words: str = ""
    meanings: Mapping[str, str] = field(default_factory=dict)
    short: Mapping[str, str] = field(default_factory=dict)

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
        """For the terminal: `console.print` takes it. Names are never markup."""
        if self.title:
            yield Text(f"\n{self.title}", style="italic")
        padding = 1 if len(self.columns) < 8 else 0
        table = RichTable(box=SIMPLE_HEAD, show_edge=False, padding=(0, padding, 0, 0))
        names = self._rich_names()
        height = max((name.plain.count("\n") for name in names), default=0)
        table.add_column(Text("\n" * height + self.corner), overflow="fold")
        for name, head, words in zip(names, self.columns, self.texts(), strict=True):
            table.add_column(name, justify="left" if words else "right", overflow="fold", style=_STYLES[head.weight])
        group = ""
        for row in self.rows:
            if row.head.group != group:
                group = row.head.group
                table.add_row(Text(group, style="bold underline"))
            if row.head.weight == "total":
                table.add_section()
            name = Text(f"{row.head.arrow} {row.head.name}".strip())
            table.add_row(name, *map(_rich_cell, row.cells), style=_STYLES[row.head.weight])
        yield table

    def _rich_names(self) -> list[Text]:
        """Names of the columns; that of a group stands above the first of its columns."""
        names, group = [], ""
        for head in self.columns:
            name = f"{self.short.get(head.name, head.name)} {head.arrow}".rstrip()
            above = f"{self.short.get(head.group, head.group) if head.group != group else ''}\n" if head.group else ""
            names.append(Text(above + name))
            group = head.group
        return names

    def latex(self) -> str:
        """A `table` environment; needs the package booktabs."""
        names = [tex(f"{head.name} {head.arrow}".rstrip()) for head in self.columns]
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


def _rich_cell(cell: Cell) -> Text:
    text = Text(cell.text, style=_STYLES[cell.weight])
    if cell.n:
        text.append(f" n {cell.n}", style="not bold dim")
    if cell.interval:
        text.append(f"\n{cell.interval}", style="not bold dim")
    return text


def _tex_cell(cell: Cell) -> str:
    return rf"\textbf{{{tex(cell.text)}}}" if cell.weight == "best" else tex(cell.text)
