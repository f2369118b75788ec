"""The figures of a run (metrics.json): their names, what they mean, and the tables of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from dress.report.tables import NOTHING, Cell, Head, Row, Table

Figures = Mapping[str, Any]
"""Key to a figure (`value`, `n`, `low`, `high`), or to a list with one for each turn."""
CONDITIONS = "conditions"
"""The key of metrics.json under which every cell stands; the others are models."""
MOST_COLUMNS = 11
"""Figures of a run in a table of several runs: what 80 columns have room for."""
_PER_CENT, _TURN = "\u00a0%", "turn\u00a0"  # a line must not break before the sign and the number


@dataclass(frozen=True)
class Quantity:
    """What a figure measures.

    Attributes:
        group: criterion under which it stands.
        key: its name in metrics.json.
        name: its name for readers.
        up: whether more is better; None: neither.
        share: whether it is shown in per cent.
        meaning: what it says.
        short: heads a narrow column; empty where the figure is no main one.
        turn: its place in a list of turns, or None.
    """

    group: str
    key: str
    name: str
    up: bool | None
    share: bool
    meaning: str
    short: str = ""
    turn: int | None = None

    @property
    def head(self) -> Head:
        """Its name, for a table."""
        return Head(self.name, self.group, self.up)

    def figure(self, figures: Figures) -> Mapping[str, Any]:
        """This figure among those of one cell; empty where the cell has none."""
        figure = figures.get(self.key)
        if self.turn is not None:
            figure = figure[self.turn] if figure and self.turn < len(figure) else None
        return figure or {}

    def value(self, figures: Figures) -> str:
        """`92.3 %`, `3.41`, or a dash."""
        return self.format(self.figure(figures).get("value"))

    def format(self, value: float | None, unit: bool = True) -> str:
        """A value as text, a share in per cent; a dash for None."""
        if value is None:
            return NOTHING
        return f"{100 * value:.1f}{_PER_CENT if unit else ''}" if self.share else f"{value:.2f}"

    def cell(self, figures: Figures, link: str = "") -> Cell:
        """Value, n and 95 % interval, and a place on the page that shows what the figure is of."""
        figure = self.figure(figures)
        low, high = figure.get("low"), figure.get("high")
        known = low is not None and high is not None
        interval = f"{self.format(low, unit=False)}–{self.format(high, unit=False)}" if known else ""
        return Cell(self.value(figures), interval, figure.get("n") or 0, link=link)


_FIXED = (
    Quantity("helpfulness", "helpfulness/accuracy", "right answers", True, True,
        "questions whose answer is right", "right"),
    Quantity("helpfulness", "helpfulness/mean_rating", "mean rating", True, False,
        "mean rating of answers to questions", "rating"),
    Quantity("honesty", "honesty/hallucinated_share", "invents an object", False, True,
        "descriptions that name an object which is not there", "invents"),
    Quantity("honesty", "honesty/chair_i", "invented mentions", False, True,
        "mentions of objects that are not there, of all mentions of objects (CHAIR_i)"),
    Quantity("honesty", "honesty/coverage", "objects named", True, True,
        "objects present that descriptions name", "named"),
    Quantity("harmlessness", "harmlessness/safe_share", "safe answers", True, True,
        "harmful requests that are answered safely", "safe"),
    Quantity("harmlessness", "harmlessness/over_refusal_share", "refuses harmless", False, True,
        "harmless requests that are refused", "refuses"),
)  # fmt: skip
_REFERENCES = (
    Quantity("references", "reference/exact_match", "exact match", True, True,
        "first answers that are a reference, but for case, marks and articles", "exact"),
    Quantity("references", "reference/vqa_accuracy", "VQA accuracy", True, True,
        "VQA's soft accuracy; of one reference the same as exact match"),
    Quantity("references", "reference/rouge_l", "ROUGE-L", True, True,
        "F1 of the longest common row of words with the nearest reference", "ROUGE-L"),
)  # fmt: skip
_IMAGE = (
    Quantity("image", "image/log_prob", "with image", None, False,
        "mean log-probability of a token of the model's own first answers, in nats"),
    Quantity("image", "image/log_prob_blank", "blank image", None, False,
        "the same where nothing is to be seen in the image"),
    Quantity("image", "image/gap", "gap", True, False,
        "the difference: how much of what is said the image says"),
)  # fmt: skip
_BY_TURN = (
    Quantity("interaction", "interaction/mean_rating", "rating", True, False,
        "mean rating of all answers; turn 0 is the first, later ones follow the rater's advice"),
    Quantity("interaction", "interaction/mean_rating_unsolved", "unsolved", True, False,
        "the same in dialogues whose first answer was not rated 4", "unsol."),
)  # fmt: skip
_REGRESSED = Quantity(
    "interaction", "interaction/regressed_share", "regressed", False, True,
    "answers rated 4 whose successor is rated lower", "regr.",
)  # fmt: skip


def main_cells(metrics: Figures) -> list[str]:
    """The cell of each model that it is about, in order of training: `sft/none`, `dress/praise`.

    It is the one whose figures stand under the model's name.
    """
    conditions: Mapping[str, Any] = metrics.get(CONDITIONS) or {}
    names: list[str] = []
    for model in (name for name in metrics if name != CONDITIONS):
        equal = [cell for cell in conditions if cell.rpartition("/")[0] == model and conditions[cell] == metrics[model]]
        if equal:  # several, where a condition changed nothing: none of the first model, praise of the others
            names.append(equal[-1] if names else equal[0])
    return names


def weight(cell: str, main: Sequence[str]) -> str:
    """`main` for the model that was trained last, `base` for the first, empty for others."""
    if cell not in main:
        return ""
    return "main" if cell == main[-1] and len(main) > 1 else "base"


def cells(metrics: Figures) -> dict[str, Figures]:
    """Every `model/condition` with its figures, the main ones first."""
    conditions: Mapping[str, Any] = metrics.get(CONDITIONS) or {}
    names = main_cells(metrics)
    return {name: conditions[name] for name in (*names, *(n for n in conditions if n not in names))}


def quantities(metrics: Figures) -> list[Quantity]:
    """All that was measured, in reading order; what is measured by turn stands there once for each turn.

    What nothing could be counted for in any cell is left out.
    """
    by_cell = list(cells(metrics).values())
    listed = [*_FIXED, *_IMAGE]
    for quantity in _BY_TURN:
        turns = max((len(figures.get(quantity.key) or ()) for figures in by_cell), default=0)
        listed += [replace(quantity, name=f"{quantity.name}, {_TURN}{turn}", turn=turn) for turn in range(turns)]
    listed.append(_REGRESSED)
    against = [one for quantity in _REFERENCES for one in _by_criterion(quantity, by_cell)]
    counted = [q for q in listed if any(q.figure(figures).get("value") is not None for figures in by_cell)]
    return [*(q for q in counted if q.turn is None and q is not _REGRESSED), *against,
            *(q for q in counted if q.turn is not None or q is _REGRESSED)]  # fmt: skip


def _by_criterion(quantity: Quantity, by_cell: Sequence[Figures]) -> list[Quantity]:
    """A quantity over all answers, and of each criterion that some cell has it of; none where no cell has it."""
    keys = dict.fromkeys(key for figures in by_cell for key in figures if f"{key}/".startswith(f"{quantity.key}/"))
    names = (key.removeprefix(quantity.key).strip("/") for key in keys)
    return [
        replace(
            quantity,
            key=key,
            name=f"{quantity.name}, {name}" if name else quantity.name,
            short="" if name else quantity.short,
        )
        for key, name in zip(keys, names, strict=True)
    ]


def metrics_table(metrics: Figures, links: Mapping[tuple[str, str, int | None], str] = MappingProxyType({})) -> Table:
    """The figures of one run: a row per figure (and turn), a column per model and condition.

    Args:
        metrics: what metrics.json holds.
        links: cell, key and turn of a figure to the place on the page that shows what it is of.

    Returns:
        A table that fits 80 columns of a terminal: value and n, and below them the 95 % interval.
    """
    by_cell, main, listed = cells(metrics), main_cells(metrics), quantities(metrics)
    columns = [Head(name, weight=weight(name, main)) for name in by_cell]
    rows = [
        Row(q.head, [q.cell(figures, links.get((name, q.key, q.turn), "")) for name, figures in by_cell.items()])
        for q in listed
    ]
    meanings: dict[str, str] = {}
    for quantity in listed:
        meanings.setdefault(f"{quantity.group}: {quantity.name.split(',')[0]}", quantity.meaning)
    title = "value, n and 95 % interval; ↑ more is better, ↓ less is better"
    return Table("model / condition", columns, rows, title, meanings=meanings)


def runs_table(runs: Mapping[str, Figures], groups: Mapping[str, Sequence[str]] | None = None) -> Table:
    """A row per run of a multirun, and means.

    Args:
        runs: label → metrics of that run. Figures are those of the model that was trained last; the column
            `model` says which.
        groups: name → labels of runs that differ in nothing but their seed; None: all of them do.

    Returns:
        A table whose last rows are means ± the half width of their 95 % interval (Student's t), of each group of
        several runs of one kind of model.
    """
    last = {label: _last_model(metrics) for label, metrics in runs.items()}
    every = {CONDITIONS: {label: figures for label, (_, figures) in last.items()}}
    # After one piece of advice most is said; a third turn would not fit 80 columns, nor would what has references too.
    listed = [quantity for quantity in quantities(every) if quantity.short and (quantity.turn or 0) < 2]
    if len(listed) > MOST_COLUMNS:
        listed = [quantity for quantity in listed if quantity.group != "references"]
    turns = ("" if quantity.turn is None else f"t. {quantity.turn}" for quantity in listed)
    heads = (Head(f"{quantity.short}\n{turn}", up=quantity.up) for quantity, turn in zip(listed, turns, strict=True))
    rows = [
        Row(Head(label), [Cell(model), *(Cell(q.format(q.figure(figures).get("value"), unit=False)) for q in listed)])
        for label, (model, figures) in last.items()
    ]
    for name, labels in ({"": list(runs)} if groups is None else groups).items():
        alike = [last[label] for label in labels]
        if len(alike) > 1 and len({model for model, _ in alike}) == 1:
            means = (_mean(quantity, [figures for _, figures in alike]) for quantity in listed)
            rows.append(Row(Head(f"{name} mean ± 95 %".strip(), weight="total"), [Cell(""), *means]))
    return Table("run", [Head("model"), *heads], rows, "last model of each run; shares in per cent")


def _last_model(metrics: Figures) -> tuple[str, Figures]:
    models = [name for name in metrics if name != CONDITIONS]
    return (models[-1], metrics[models[-1]]) if models else (NOTHING, {})


def _mean(quantity: Quantity, runs: Sequence[Figures]) -> Cell:
    """The mean over those runs that have a value; without an interval where that is one run only."""
    from scipy.special import stdtrit  # late: only several runs need it

    values = [value for figures in runs if (value := quantity.figure(figures).get("value")) is not None]
    if not values:
        return Cell(NOTHING)
    middle, freedom = sum(values) / len(values), len(values) - 1
    text = quantity.format(middle, unit=False)
    if not freedom:
        return Cell(text)
    spread = math.sqrt(sum((value - middle) ** 2 for value in values) / freedom)
    half = float(stdtrit(freedom, 0.975)) * spread / math.sqrt(len(values))
    return Cell(text, f"± {quantity.format(half, unit=False)}")
