"""The paper's tables, and the HTML page and LaTeX file that hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dress.report.tables import NOTHING, Cell, Head, Row, Table

Figures = Mapping[str, float | None]
"""`group/name` of a column to a model's figure."""

_SHORT = {
    "LLaVA-Eval": "L.-Eval", "LLaVA-Bench": "L.-Bench",
    "conversation": "conv.", "description": "descr.", "reasoning": "reas.", "average": "avg.", "relevance": "relev.",
    "accuracy": "accur.", "level of detail": "detail", "helpfulness": "helpf.", "persuasiveness": "persuas.",
}  # fmt: skip
"""Names of columns that fit 80 characters."""


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The tables that suite.json holds, one for each criterion; the best figure of a column stands out.

    Args:
        result: `tables` (criterion → model → column → figure), `columns` (criterion → group, name and whether more
            is better of each), and `name`, the row of one's own.
    """
    return [_table(title, result["columns"][title], table, result["name"]) for title, table in result["tables"].items()]


def html_page(result: Mapping[str, Any]) -> str:
    """All tables in one page that opens offline."""
    from dress.report.page import Page, Section, html  # late: it loads Altair and Jinja

    sections = [Section(table.title.capitalize(), tables=[table]) for table in tables(result)]
    title, lead = f"{result['name']} beside the tables of DRESS", "Bold: the best of its column."
    return html(Page(title, "DRESS evaluation", title, lead, sections, result["notes"]))


def latex_tables(result: Mapping[str, Any]) -> str:
    """One `table` per criterion; needs the package booktabs."""
    notes = "".join(f"% {note}\n" for note in result["notes"])
    return f"% Needs \\usepackage{{booktabs}}.\n{notes}" + "\n".join(table.latex() for table in tables(result))


def _table(title: str, columns: Sequence[Sequence[Any]], models: Mapping[str, Figures], own: str) -> Table:
    heads = [Head(name.replace("_", " "), group, up) for group, name, up in columns]
    keys = {f"{group}/{name}": up for group, name, up in columns}
    best = {key: _best([figures.get(key) for figures in models.values()], up) for key, up in keys.items()}
    rows = [
        Row(Head(model, weight="main" if model == own else ""), [_cell(figures.get(key), best[key]) for key in keys])
        for model, figures in models.items()
    ]
    return Table("model", heads, rows, title, short=_SHORT)


def _best(values: Sequence[float | None], up: bool) -> float | None:
    """The best of several values; None where there is nothing to compare."""
    numbers = [value for value in values if value is not None]
    return (max if up else min)(numbers) if len(numbers) > 1 else None


def _cell(value: float | None, best: float | None) -> Cell:
    if value is None:
        return Cell(NOTHING)
    return Cell(f"{value:.2f}", weight="best" if value == best else "")
