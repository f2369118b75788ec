"""The figures as tables in the terminal, and the names that the report shares with them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

Figure = Mapping[str, Any]
CONDITIONS = "conditions"
"""The key of metrics.json under which every cell stands; the others are models."""
NOTHING = "–"
_STYLES = {"main": "bold cyan", "base": "bold", "": ""}
_PER_CENT = "\u00a0%"  # a line must not break between number and sign

_T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160)


@dataclass(frozen=True)
class Row:
    """One figure in every cell.

    `key` is its name in metrics.json and `turn` its place in a list (or None); `up` says whether
    more is better, `share` whether it is shown in per cent; `short` heads a narrow column (empty
    where the figure is no main one).
    """

    group: str
    key: str
    name: str
    up: bool
    share: bool
    meaning: str
    short: str = ""
    turn: int | None = None

    @property
    def arrow(self) -> str:
        return "↑" if self.up else "↓"

    def figure(self, figures: Mapping[str, Any]) -> Figure:
        """This figure in the figures of one cell; empty where the cell has none."""
        found = figures.get(self.key)
        if self.turn is not None:
            found = found[self.turn] if found and self.turn < len(found) else None
        return found or {}

    def value(self, figures: Mapping[str, Any]) -> str:
        """`92.3 %`, `3.41`, or a dash."""
        return self.format(self.figure(figures).get("value"))

    def format(self, value: float | None, unit: bool = True) -> str:
        if value is None:
            return NOTHING
        return f"{100 * value:.1f}{_PER_CENT if unit else ''}" if self.share else f"{value:.2f}"

    def interval(self, figures: Mapping[str, Any]) -> str:
        """`90.1–94.0`, or nothing."""
        figure = self.figure(figures)
        if figure.get("low") is None or figure.get("high") is None:
            return ""
        return f"{self.format(figure['low'], unit=False)}–{self.format(figure['high'], unit=False)}"


_FIXED = (
    Row("helpfulness", "helpfulness/accuracy", "right answers", True, True,
        "questions whose answer is right", "right"),
    Row("helpfulness", "helpfulness/mean_rating", "mean rating", True, False,
        "mean rating of answers to questions", "rating"),
    Row("honesty", "honesty/hallucinated_share", "invents an object", False, True,
        "descriptions that name an object which is not there", "invents"),
    Row("honesty", "honesty/chair_i", "invented mentions", False, True,
        "mentions of objects that are not there, of all mentions of objects (CHAIR_i)"),
    Row("honesty", "honesty/coverage", "objects named", True, True,
        "objects present that descriptions name", "named"),
    Row("harmlessness", "harmlessness/safe_share", "safe answers", True, True,
        "harmful requests that are answered safely", "safe"),
    Row("harmlessness", "harmlessness/over_refusal_share", "refuses harmless", False, True,
        "harmless requests that are refused", "refuses"),
)  # fmt: skip
_BY_TURN = (
    Row("interaction", "interaction/mean_rating", "rating", True, False,
        "mean rating of all answers; turn 0 is the first, later ones follow the rater's advice"),
    Row("interaction", "interaction/mean_rating_unsolved", "unsolved", True, False,
        "the same in dialogues whose first answer was not rated 4", "unsol."),
)  # fmt: skip
_REGRESSED = Row(
    "interaction", "interaction/regressed_share", "regressed", False, True,
    "answers rated 4 whose successor is rated lower", "regr.",
)  # fmt: skip


def main_cells(metrics: Mapping[str, Any]) -> list[str]:
    """The cell of each model that it is about, in order of training: `sft/none`, `dress/praise`.

    It is the one whose figures stand under the model's name.
    """
    conditions: Mapping[str, Any] = metrics.get(CONDITIONS) or {}
    found: list[str] = []
    for model in (name for name in metrics if name != CONDITIONS):
        equal = [cell for cell in conditions if _model_of(cell) == model and conditions[cell] == metrics[model]]
        if equal:  # several, where a condition changed nothing: none of the first model, praise of the others
            found.append(equal[-1] if found else equal[0])
    return found


def _model_of(cell: str) -> str:
    return cell.rpartition("/")[0]


def weight(cell: str, main: Sequence[str]) -> str:
    """`main` for the model that was trained last, `base` for the first, empty for others."""
    if cell not in main:
        return ""
    return "main" if cell == main[-1] and len(main) > 1 else "base"


def cells(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Every `model/condition` with its figures, the main ones first."""
    conditions: Mapping[str, Any] = metrics.get(CONDITIONS) or {}
    names = main_cells(metrics)
    return {name: conditions[name] for name in (*names, *(n for n in conditions if n not in names))}


def rows(metrics: Mapping[str, Any]) -> list[Row]:
    """All figures in reading order; those by turn get a row per turn."""
    found = list(_FIXED)
    for row in _BY_TURN:
        turns = max((len(f.get(row.key) or ()) for f in cells(metrics).values()), default=0)
        found += [replace(row, name=f"{row.name}, turn {t}", turn=t) for t in range(turns)]
    return [*found, _REGRESSED]


def metrics_table(metrics: Mapping[str, Any]) -> Table:
    """The figures of one run: a row per figure (and turn), a column per model and condition.

    Args:
        metrics: what `dress.evaluation.metrics.metrics` returns.

    Returns:
        A table that fits 80 columns: value and n, and below them the 95 % interval.
    """
    shown, main = cells(metrics), main_cells(metrics)
    table = Table(
        title="value, n and 95 % interval; ↑ more is better, ↓ less is better",
        title_style="dim", title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=0,
    )  # fmt: skip
    table.add_column("")
    for name in shown:
        table.add_column(Text(name, style=_STYLES[weight(name, main)]), justify="right")
    group = ""
    for row in rows(metrics):
        if row.group != group:
            group = row.group
            table.add_row(Text(group, style="bold underline"))
        table.add_row(
            f"{row.arrow} {row.name}", *(_cell(row, _STYLES[weight(name, main)], f) for name, f in shown.items())
        )
    return table


def _cell(row: Row, style: str, figures: Mapping[str, Any]) -> Text:
    n = row.figure(figures).get("n")
    text = Text(row.value(figures), style=style)
    if n:
        text.append(f" n {n}", style="not bold dim")
    if interval := row.interval(figures):
        text.append(f"\n{interval}", style="not bold dim")
    return text


def runs_table(runs: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row per run of a multirun and their mean.

    Args:
        runs: label -> metrics of that run. Figures are those of the model that was
            trained last; the column `model` says which.

    Returns:
        A table whose last row is the mean ± the half width of its 95 % interval (Student's t), where
        there are several runs of one kind of model.
    """
    picked = [(label, *_last_model(metrics)) for label, metrics in runs.items()]
    every = {"conditions": {str(i): figures for i, (_, _, figures) in enumerate(picked)}}
    # After one piece of advice most is said; a third turn would not fit 80 columns.
    shown = [row for row in rows(every) if row.short and (row.turn or 0) < 2]
    table = Table(
        title="last model of each run; shares in per cent", title_style="dim", title_justify="left",
        box=SIMPLE_HEAD, show_edge=False, padding=0,
    )  # fmt: skip
    table.add_column("run")
    table.add_column("model")
    for row in shown:
        turn = "" if row.turn is None else f"t. {row.turn} "
        table.add_column(f"{row.short}\n{turn}{row.arrow}", justify="right")
    for label, model, figures in picked:
        values = [row.format(row.figure(figures).get("value"), unit=False) for row in shown]
        table.add_row(Text(label), model, *values)  # a label may hold brackets
    if len(picked) > 1 and len({model for _, model, _ in picked}) == 1:
        table.add_section()
        table.add_row(
            "mean ± 95 %",
            "",
            *(_mean(row, [f for _, _, f in picked]) for row in shown),
            style="bold",
        )
    return table


def _last_model(metrics: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    models = [name for name in metrics if name != CONDITIONS]
    return (models[-1], metrics[models[-1]]) if models else (NOTHING, {})


def _mean(row: Row, runs: Sequence[Mapping[str, Any]]) -> str:
    found = [row.figure(figures).get("value") for figures in runs]
    values = [value for value in found if value is not None]
    if not values:
        return NOTHING
    middle = sum(values) / len(values)
    if len(values) == 1:  # the others counted nothing: a mean without an interval
        return row.format(middle, unit=False)
    spread = math.sqrt(sum((value - middle) ** 2 for value in values) / (len(values) - 1))
    half = t975(len(values) - 1) * spread / math.sqrt(len(values))
    return f"{row.format(middle, unit=False)}\n± {row.format(half, unit=False)}"


def t975(freedom: int) -> float:
    """The 97.5 % point of Student's t, to three digits."""
    if freedom <= len(_T975):
        return _T975[freedom - 1]
    z = 1.959964
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
