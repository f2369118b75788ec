"""Parallel coordinates: what runs were given and what they reached, an axis for each, a line for each run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import altair as alt

from dress.report.charts import Chart, layered
from dress.report.tables import NOTHING

HEIGHT = 300
"""Pixels of the axes."""
WORST, MIDDLE, BEST = "#d2600f", "#a89a6a", "#2f7fd6"
"""Colours of lines by the last axis: to be told apart on light and dark, and without red or green."""
_SOFT = "var(--soft)"
Value = float | str | None


@dataclass(frozen=True)
class ParallelAxis:
    """An axis.

    Attributes:
        name: stands above; no two axes have the same.
        choices: in order from below; empty for numbers.
        log: equal steps are equal factors.
        share: its numbers are shown in per cent.
        up: whether more is better; None: neither.
    """

    name: str
    choices: Sequence[str] = ()
    log: bool = False
    share: bool = False
    up: bool | None = None

    @property
    def title(self) -> str:
        """Its name, with an arrow to where better is."""
        return f"{self.name} {'' if self.up is None else '↑' if self.up else '↓'}".strip()

    def text(self, value: Value) -> str:
        """A value as text, in four digits."""
        if value is None:
            return NOTHING
        if isinstance(value, str):
            return value
        return f"{100 * value:.1f} %" if self.share else f"{value:.4g}"


@dataclass(frozen=True)
class ParallelLine:
    """A run: its values, one for each axis; None where it has none. It failed where it has none on the last axis."""

    name: str
    values: Sequence[Value]

    @property
    def failed(self) -> bool:
        return self.values[-1] is None


def parallel_coordinates(title: str, axes: Sequence[ParallelAxis], lines: Sequence[ParallelLine]) -> Chart:
    """Lines over axes, coloured by the last axis; the best is wide, and those that failed are grey and dashed.

    Args:
        title: stands above the chart.
        axes: from left to right.
        lines: of at least one run that did not fail.
    """
    scales = [_Scale.over(axis, [line.values[n] for line in lines]) for n, axis in enumerate(axes)]
    last, up = len(axes) - 1, axes[-1].up is not False
    best = max(lines, key=lambda line: _rank(line, up))
    others = sorted((line for line in lines if line is not best), key=lambda line: _rank(line, up))
    order = [*others, best]  # drawn one above the other
    values = [
        {
            "run": line.name,
            "axis": axis.title,
            "place": scales[n].place(value),
            "value": axis.text(value),
            "reached": axes[last].text(line.values[last]),
            "goal": 0.0 if line.failed else scales[last].place(line.values[last]),
            "failed": line.failed,
            "wide": 3.5 if line is best else 1.5,
            "order": n,
        }
        for line in order
        for n, (axis, value) in enumerate(zip(axes, line.values, strict=True))
        if value is not None
    ]
    ends = [{"axis": axis.title, "end": end} for axis in axes for end in (0, 1)]
    ticks = [{"axis": axes[n].title, **tick} for n, scale in enumerate(scales) for tick in scale.ticks()]
    names = alt.Axis(orient="top", labelAngle=0, domain=False, ticks=False, labelPadding=14, labelLimit=150)
    point_scale = alt.Scale(type="point", padding=0.35)
    x = alt.X("axis:N", sort=[axis.title for axis in axes], title=None, axis=names, scale=point_scale)
    height = alt.Scale(domain=[0, 1], nice=False)

    def y(field: str) -> alt.Y:
        return alt.Y(field, type="quantitative", axis=None, scale=height)

    goal = alt.Color("goal:Q", scale=alt.Scale(domain=[0, 0.5, 1], range=_colours(up), interpolate="rgb"), legend=None)
    colour = alt.condition("datum.failed", alt.value(_SOFT), goal)
    dash = alt.condition("datum.failed", alt.value([4, 4]), alt.value([1, 0]))
    tooltip = [alt.Tooltip("run:N"), alt.Tooltip("axis:N", title="setting or figure"), alt.Tooltip("value:N"),
               alt.Tooltip("reached:N", title=axes[last].name)]  # fmt: skip
    drawn = alt.Chart(alt.InlineData(values)).encode(x=x, color=colour, tooltip=tooltip, detail="run:N")
    layers = [
        alt.Chart(alt.InlineData(ends)).mark_line(color="var(--rule)", strokeWidth=1.5).encode(
            x=x, y=y("end"), detail="axis:N"
        ),
        drawn.mark_line(opacity=0.9).encode(
            y=y("place"), order="order:Q", strokeDash=dash, strokeWidth=alt.StrokeWidth("wide:Q", scale=None)
        ),
        drawn.mark_point(filled=True, opacity=1, size=28).encode(y=y("place")),
        alt.Chart(alt.InlineData(ticks)).mark_text(
            align="left", dx=7, fontSize=11, color=_SOFT, stroke="var(--card)", strokeWidth=3
        ).encode(x=x, y=y("place"), text="text:N"),
    ]  # fmt: skip
    head = ("run", *(axis.title for axis in axes))
    rows = [
        (line.name, *(axis.text(value) for axis, value in zip(axes, line.values, strict=True)))
        for line in reversed(order)
    ]
    return replace(layered(title, layers, head, rows, HEIGHT), wide=True)


@dataclass(frozen=True)
class _Scale:
    """Where values stand on an axis, from 0 below to 1 above."""

    axis: ParallelAxis
    low: float
    high: float

    @classmethod
    def over(cls, axis: ParallelAxis, values: Sequence[Value]) -> _Scale:
        """The scale that just holds these values; of choices, all of them."""
        if axis.choices:
            return cls(axis, 0, len(axis.choices) - 1)
        numbers = [float(value) for value in values if value is not None]
        return cls(axis, min(numbers, default=0.0), max(numbers, default=0.0))

    def place(self, value: Value) -> float:
        if self.high == self.low:
            return 0.5
        if self.axis.choices:
            return self.axis.choices.index(str(value)) / self.high
        low, high, at = (self._scaled(number) for number in (self.low, self.high, float(value or 0)))
        return round((at - low) / (high - low), 4)

    def ticks(self) -> list[Mapping[str, Any]]:
        """Places and texts: every choice, or both ends and the middle."""
        if self.axis.choices:
            return [{"place": self.place(one), "text": one} for one in self.axis.choices]
        if self.high == self.low:
            return [{"place": 0.5, "text": self.axis.text(self.low)}]
        low, high = self._scaled(self.low), self._scaled(self.high)
        middle = math.exp((low + high) / 2) if self.axis.log else (low + high) / 2
        texts = (self.axis.text(self.low), f"{middle:.2g}", self.axis.text(self.high))
        if self.axis.share:
            texts = (texts[0], self.axis.text(middle), texts[2])
        return [{"place": place, "text": text} for place, text in zip((0, 0.5, 1), texts, strict=True)]

    def _scaled(self, number: float) -> float:
        return math.log(number) if self.axis.log else number


def _rank(line: ParallelLine, up: bool) -> float:
    """Orders lines from those that failed to the best."""
    value = line.values[-1]
    if value is None:
        return -math.inf
    return float(value) if up else -float(value)


def _colours(up: bool) -> list[str]:
    """From below to above on the last axis."""
    return [WORST, MIDDLE, BEST] if up else [BEST, MIDDLE, WORST]
