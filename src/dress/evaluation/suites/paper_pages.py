"""The paper's tables as an HTML page and as LaTeX (booktabs)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Any

from dress.report.tables import NOTHING

Row = Mapping[str, float | None]
Columns = Sequence[Sequence[Any]]
"""Group, name, and whether more is better."""

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}
table{border-collapse:collapse;margin:1rem 0 2rem;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .75rem;text-align:right;border-bottom:1px solid #d0d7de}
th:first-child,td:first-child{text-align:left}thead th{border-bottom:2px solid #57606a}
tr.own{background:#ddf4ff}caption{text-align:left;font-weight:600;padding:.5rem 0;text-transform:capitalize}
li{color:#57606a}
@media(prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}th,td{border-color:#30363d}
tr.own{background:#0c2d4d}li{color:#9da7b3}}
"""
_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    c: "\\" + c for c in "&%$#_{}"
}


def shown(row: Row, columns: Columns, table: Mapping[str, Row]) -> list[tuple[str, bool]]:
    """Every cell as text, and whether it is the best of its column."""
    cells = []
    for group, name, up in columns:
        key = f"{group}/{name}"
        value, others = row.get(key), [v for other in table.values() if (v := other.get(key)) is not None]
        best = value is not None and len(others) > 1 and value == (max if up else min)(others)
        cells.append((NOTHING if value is None else f"{value:.2f}", best))
    return cells


def html_page(result: Mapping[str, Any]) -> str:
    """All tables in one page that opens offline."""
    tables = "".join(
        _html_table(title, result["columns"][title], table, result["name"]) for title, table in result["tables"].items()
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in result["notes"])
    title = escape(f"{result['name']} beside the tables of DRESS")
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body><h1>{title}</h1>{tables}<ul>{notes}</ul></body></html>\n"
    )
    return page.encode("utf-8", "replace").decode()


def latex_tables(result: Mapping[str, Any]) -> str:
    """One `table` per criterion; needs the package booktabs."""
    notes = "".join(f"% {note}\n" for note in result["notes"])
    tables = (_latex_table(title, result["columns"][title], table) for title, table in result["tables"].items())
    return f"% Needs \\usepackage{{booktabs}}.\n{notes}" + "\n".join(tables)


def _html_table(title: str, columns: Columns, table: Mapping[str, Row], own: str) -> str:
    groups = "".join(f'<th colspan="{n}" scope="colgroup">{escape(group)}</th>' for group, n in _groups(columns))
    names = "".join(
        f'<th scope="col">{escape(name.replace("_", " "))} {"↑" if up else "↓"}</th>' for _, name, up in columns
    )
    rows = []
    for model, row in table.items():
        cells = "".join(f"<td>{f'<b>{t}</b>' if best else t}</td>" for t, best in shown(row, columns, table))
        mark = ' class="own"' if model == own else ""
        rows.append(f'<tr{mark}><th scope="row">{escape(model)}</th>{cells}</tr>')
    return (
        f"<table><caption>{escape(title)}</caption><thead><tr><th></th>{groups}</tr>"
        f"<tr><th>model</th>{names}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _latex_table(title: str, columns: Columns, table: Mapping[str, Row]) -> str:
    groups = " & ".join(rf"\multicolumn{{{n}}}{{c}}{{{_tex(group)}}}" for group, n in _groups(columns))
    arrow = {True: r"$\uparrow$", False: r"$\downarrow$"}
    names = " & ".join(f"{_tex(name.replace('_', ' '))} {arrow[up]}" for _, name, up in columns)
    rows = []
    for model, row in table.items():
        cells = (rf"\textbf{{{t}}}" if best else t.replace(NOTHING, "--") for t, best in shown(row, columns, table))
        rows.append(rf"{_tex(model)} & {' & '.join(cells)} \\")
    return "\n".join(
        [
            r"\begin{table}", r"\centering", rf"\caption{{{_tex(title.capitalize())}}}",
            rf"\begin{{tabular}}{{l{'r' * len(columns)}}}", r"\toprule", rf" & {groups} \\", rf"model & {names} \\",
            r"\midrule", *rows, r"\bottomrule", r"\end{tabular}", r"\end{table}", "",
        ]
    )  # fmt: skip


def _groups(columns: Columns) -> list[tuple[str, int]]:
    return [(group, len(list(members))) for group, members in groupby(columns, key=lambda column: column[0])]


def _tex(text: str) -> str:
    return re.sub(r"[\\~^&%$#_{}]", lambda match: _TEX[match[0]], text)
