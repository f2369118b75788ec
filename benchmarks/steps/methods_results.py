"""The table of methods as Markdown, and as a picture."""

from __future__ import annotations

import statistics
from html import escape
from typing import Any

SHOWN = (
    "first_rating", "helpfulness/accuracy", "honesty/hallucinated_share", "harmlessness/safe_share",
    "harmlessness/over_refusal_share", "rise", "solved_2", "regressed", "image/gap",
)  # fmt: skip
DRAWN = ("helpfulness/accuracy", "honesty/hallucinated_share", "harmlessness/safe_share", "solved_2")
SHORT = (
    "helpfulness/accuracy", "honesty/hallucinated_share", "harmlessness/safe_share", "harmlessness/over_refusal_share",
    "solved_0", "solved_2", "image/gap",
)  # fmt: skip
CONDITIONS = ("none", "praise")
COLOURS = {"none": "#8a8f98", "praise": "#2563eb"}
WIDTH, HEIGHT, LEFT, TOP, PANEL = 1050, 24, 260, 46, 180


def page(results: dict[str, Any]) -> str:
    """A table for each condition, marked where the paired interval against DRESS leaves out 0; and the amounts."""
    names, up = results["names"], results["up"]
    lines = [
        "# Methods that learn from language feedback, on the shapes world", "",
        f"Seeds {', '.join(map(str, results['seeds']))}; one SFT model and one collection per seed; "
        "as many supervised tokens as DRESS, but where it says full length. Value, 95 % interval over scenes and "
        "seeds; ▲ better and ▼ worse than `dress_full` under the same condition where the paired interval leaves out "
        "0.", "",
        f"`{results['command']}`, commit {results['commit']}, {results['cpu']}.", "",
    ]  # fmt: skip
    for condition in CONDITIONS:
        lines += [f"## Asked under {condition}", ""]
        lines.append("| method | " + " | ".join(_head(names[key], up[key]) for key in SHOWN) + " |")
        lines.append("|---|" + "---|" * len(SHOWN))
        for label in (one for one in results["rows"] if one.endswith(f"/{condition}")):
            figures = results["rows"][label]
            cells = (_cell(figures[key], results["per_cent"][key], up[key]) for key in SHOWN)
            lines.append(f"| {label.rpartition('/')[0]} | " + " | ".join(cells) + " |")
        lines.append("")
    alone = results["jobs"] == 1  # beside another run seconds are no measurement
    lines += ["## Amounts", ""]
    lines += [f"| method | supervised tokens |{' seconds of learning (and collecting again) |' if alone else ''}"]
    lines += ["|---|---|---|" if alone else "|---|---|"]
    for name, tokens in results["tokens"].items():
        seconds = f" {statistics.median(results['seconds'][name]):,.0f} |" if alone else ""
        lines.append(f"| {name} | {statistics.mean(tokens):,.0f} |{seconds}")
    return "\n".join(lines) + "\n"


def short_table(results: dict[str, Any]) -> str:
    """The figures of the picture and two more, values alone, each under both conditions: `none / praise`."""
    names, up, rows = results["names"], results["up"], results["rows"]
    lines = [
        "| method | " + " | ".join(_head(names[key], up[key]) for key in SHORT) + " |", "|---|" + "---|" * len(SHORT)
    ]  # fmt: skip
    for method in dict.fromkeys(label.rpartition("/")[0] for label in rows):
        pairs = (
            " / ".join(_value(rows[f"{method}/{one}"][key], results["per_cent"][key]) for one in CONDITIONS)
            for key in SHORT
        )
        lines.append(f"| {method} | " + " | ".join(pairs) + " |")
    return "\n".join(lines) + "\n"


def _value(figure: dict[str, Any], per_cent: bool) -> str:
    if figure["value"] is None:
        return "–"
    return f"{100 * figure['value']:.1f}" if per_cent else f"{figure['value']:.2f}"


def _head(name: str, up: bool | None) -> str:
    return name if up is None else f"{name} {'↑' if up else '↓'}"


def _cell(figure: dict[str, Any], per_cent: bool, up: bool | None) -> str:
    if figure["value"] is None:
        return "–"
    scale, form = (100, "{:.1f}") if per_cent else (1, "{:.2f}")
    value, low, high = (form.format(scale * figure[key]) for key in ("value", "low", "high"))
    against = figure["against_base"]
    mark = ""
    if up is not None and against["low"] is not None and against["low"] * against["high"] > 0:
        mark = " ▲" if (against["value"] > 0) == up else " ▼"
    return f"{value} ({low}–{high}){mark}"


def picture(results: dict[str, Any]) -> str:
    """A dot with its interval for each method and condition, in a panel for each figure."""
    methods = list(dict.fromkeys(label.rpartition("/")[0] for label in results["rows"]))
    height = TOP + HEIGHT * len(methods) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    for number, method in enumerate(methods):
        y = TOP + HEIGHT * (number + 0.5)
        parts.append(f'<text x="{LEFT - 12}" y="{y + 4:.1f}" text-anchor="end">{escape(method)}</text>')
    for panel, key in enumerate(DRAWN):
        x0 = LEFT + panel * (PANEL + 17)
        name = _head(results["names"][key], results["up"][key])
        parts.append(f'<text x="{x0 + PANEL / 2}" y="20" text-anchor="middle" font-weight="bold">{escape(name)}</text>')
        for tick in (0, 25, 50, 75, 100):
            x = x0 + PANEL * tick / 100
            parts.append(f'<line x1="{x}" x2="{x}" y1="{TOP - 8}" y2="{height - 40}" stroke="#e5e7eb"/>')
            parts.append(
                f'<text x="{x}" y="{height - 24}" text-anchor="middle" fill="#6b7280" font-size="11">{tick}</text>'
            )
        for number, method in enumerate(methods):
            for place, condition in enumerate(CONDITIONS):
                figure = results["rows"][f"{method}/{condition}"][key]
                if figure["value"] is None:
                    continue
                y = TOP + HEIGHT * (number + 0.5) + (-4 if place == 0 else 4)
                low, middle, high = (x0 + PANEL * figure[one] for one in ("low", "value", "high"))
                colour = COLOURS[condition]
                parts.append(
                    f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"/>'
                )
                parts.append(f'<circle cx="{middle:.1f}" cy="{y}" r="3.5" fill="{colour}"/>')
    for place, condition in enumerate(CONDITIONS):
        x = LEFT + place * 150
        parts.append(f'<circle cx="{x}" cy="{height - 8}" r="4" fill="{COLOURS[condition]}"/>')
        parts.append(f'<text x="{x + 10}" y="{height - 4}">asked under {condition}, %</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
