"""Charts by Altair: each a Vega-Lite specification and its figures as a table.

Colours are CSS variables of the page, so that a chart follows its light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from dress.report.tables import NOTHING, Table

MAX_POINTS = 200
"""Points of a line that are drawn; more would hide each other."""
RATINGS = ("rating 1", "rating 2", "rating 3", "rating 4", "not rated")
_HEIGHT, _NARROW = 220, 290
"""Pixels between the axes: the height, and the width on a phone."""
_BAR = 26
"""Pixels from one bar to the next."""
_FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
_INK, _SOFT, _CARD = "var(--ink)", "var(--soft)", "var(--card)"


@dataclass(frozen=True)
class Chart:
    """A chart for a page.

    Attributes:
        title: stands above.
        specification: Vega-Lite with the figures inside, as wide as what holds it.
        figures: the same as texts, for those who do not see the chart.
        wide: it needs the width of the page.
    """

    title: str
    specification: dict[str, Any]
    figures: Table
    wide: bool = False


@dataclass(frozen=True)
class Point:
    """A point; `low` and `high` are its interval where both are there, and `n` is over how many it was taken."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    n: int | None = None


@dataclass(frozen=True)
class Series:
    """A line. `colour` is the name of a CSS variable of the page."""

    name: str
    colour: str
    points: Sequence[Point]


def ratings_by_turn(title: str, series: Sequence[Series]) -> Chart:
    """Mean rating (1-4) over turns with interval bars.

    Args:
        title: stands above the chart.
        series: x is the turn, y the mean rating.
    """
    values = [_rating(number, point, series) for number, one in enumerate(series) for point in one.points]
    last = max(1, *(int(value["turn"]) for value in values))
    turn_axis = alt.Axis(values=list(range(last + 1)), format="d", grid=False)
    x = alt.X("place:Q", title="turn", scale=_scale(-0.35, last + 0.35), axis=turn_axis)
    rating_axis = alt.Axis(values=[1, 2, 3, 4], format="d")

    def y(field: str) -> alt.Y:
        return alt.Y(field, type="quantitative", title="mean rating (1–4)", scale=_scale(1, 4), axis=rating_axis)

    tooltip = [alt.Tooltip("line:N"), alt.Tooltip("turn:Q"), alt.Tooltip("rating:Q", format=".2f"),
               alt.Tooltip("interval:N", title="95 % interval"), alt.Tooltip("n:Q", format=",d")]  # fmt: skip
    base = alt.Chart(alt.InlineData(values)).encode(x=x, color=_colours("line", series), tooltip=tooltip)
    layers = [
        base.mark_line(strokeWidth=2).encode(y=y("rating")),
        base.mark_errorbar(ticks=alt.MarkConfig(size=9), thickness=1.5).encode(y=y("low"), y2="high"),
        base.mark_point(filled=True, size=75, opacity=1).encode(y=y("rating"), shape=_shapes(series)),
        base.mark_text(fontWeight=600, stroke=_CARD, strokeWidth=3).encode(
            y=y("label"), text=alt.Text("rating:Q", format=".2f")
        ),
    ]
    rows = [(v["line"], f"{v['turn']:g}", f"{v['rating']:.2f}", v["interval"], _count(v["n"])) for v in values]
    return layered(title, layers, ("line", "turn", "mean rating", "95 % interval", "n"), rows)


def losses(title: str, series: Sequence[Series], stages: Sequence[tuple[str, float, float]]) -> Chart:
    """Loss by phase over the curriculum, on a log scale.

    Args:
        title: stands above the chart.
        series: x is curriculum/step, y a loss above 0.
        stages: (name, first step, last step), marked in the background.
    """
    lines = [one for one in series if one.points]
    values = [{"phase": one.name, "step": p.x, "loss": p.y} for one in lines for p in _thin(one.points)]
    points = [point for one in lines for point in one.points]
    end = max(1.0, *(point.x for point in points), *(last for _, _, last in stages))
    highest = max((point.y for point in points), default=10.0)
    lowest = min([*(point.y for point in points), highest / 4])  # room for two labels on the axis at least
    scale = alt.Scale(type="log", domain=[lowest / 1.15, highest * 1.6], nice=False)
    x = alt.X("step:Q", title="curriculum step", scale=_scale(0, end), axis=alt.Axis(grid=False, tickCount=5))
    y = alt.Y(
        "loss:Q",
        title="loss (nats per token, log scale)",
        scale=scale,
        axis=alt.Axis(values=_log_ticks(lowest, highest)),
    )
    tooltip = [alt.Tooltip("phase:N"), alt.Tooltip("step:Q", format=",d"), alt.Tooltip("loss:Q", format=".3f")]
    base = alt.Chart(alt.InlineData(values)).encode(x=x, y=y, color=_colours("phase", lines), tooltip=tooltip)
    bands = alt.Chart(alt.InlineData(_bands(stages, end))).encode(x=alt.X("first:Q"))
    names = bands.mark_text(align="left", dx=4, dy=alt.expr("13 * datum.line"), fontSize=11, color=_SOFT)
    layers = [
        bands.mark_rect(opacity=0.6).encode(x2="last:Q", fill=alt.Fill("colour:N", scale=None)),
        names.encode(y=alt.value(9), text="stage:N"),
        base.mark_line(strokeWidth=2, point=alt.OverlayMarkDef(opacity=0, size=90)),
    ]
    short = [one.name for one in lines if len(one.points) < 3]  # no line to be seen
    if short:
        layers.append(base.mark_point(filled=True).transform_filter(alt.FieldOneOfPredicate("phase", short)))
    rows = [(one.name, *(f"{p.y:.3f} at {p.x:,g}" for p in _landmarks(one.points))) for one in lines]
    return layered(title, layers, ("phase", "first loss", "lowest", "last"), rows)


def rating_bars(title: str, table: Mapping[str, Mapping[str, Sequence[int]]], what: str = "collected answers") -> Chart:
    """How often each rating was given: one bar per criterion and turn, as shares of its answers.

    Args:
        title: stands above the chart.
        table: criterion → turn → how many answers got 1, 2, 3, 4 and no rating.
        what: was rated.
    """
    bars = [(criterion, turn, counts) for criterion, turns in table.items() for turn, counts in turns.items()]
    names = [row for criterion, turns in table.items() for row in (criterion, *(_row(criterion, t) for t in turns))]
    width = 7 * max([8, *map(len, table)])
    # A criterion is a row of its own, above those of its turns.
    turn = r"split(datum.value, '\n')[1]"
    heading = alt.condition(f"!{turn}", alt.value(600), alt.value(400))
    y_axis = alt.Axis(
        labelExpr=f"{turn} || datum.value",
        labelFontWeight=heading,
        labelAlign="left",
        labelPadding=width,
        labelLimit=width,
    )
    y = alt.Y("row:N", title=None, scale=alt.Scale(domain=names), axis=y_axis)
    # What stands right of the bars belongs to the same scale, so that it cannot be cut off.
    x_axis = alt.Axis(values=[0, 0.5, 1], format="%", grid=False, domain=False, titleAnchor="start")
    x = alt.X("start:Q", title=f"share of {what}", scale=_scale(0, 1.45), axis=x_axis)
    colours = [f"var(--r{number + 1})" for number in range(len(RATINGS))]
    colour = alt.Color("rating:N", scale=alt.Scale(domain=list(RATINGS), range=colours), title=None)
    tooltip = [
        "criterion:N",
        "turn:N",
        "rating:N",
        alt.Tooltip("answers:Q", format=",d"),
        alt.Tooltip("of:Q", format=",d"),
    ]
    parts = alt.Chart(alt.InlineData([part for bar in bars for part in _parts(*bar)])).encode(y=y)
    ends = [{"row": names[0], "text": "mean · n"}, *(_end(*bar) for bar in bars)]
    means = alt.Chart(alt.InlineData(ends)).encode(y=y)
    layers = [
        parts.mark_bar(height=_BAR - 4, stroke=_CARD, strokeWidth=1).encode(
            x=x, x2="end:Q", color=colour, tooltip=tooltip
        ),
        parts.mark_text().encode(x="middle:Q", text="label:N", fill=alt.Fill("ink:N", scale=None)),
        means.mark_text(align="right", color=_SOFT).encode(x=alt.datum(1.45), text="text:N"),
    ]
    head = ("criterion", "turn", *RATINGS, "mean")
    rows = [(criterion, str(turn), *(f"{n:,}" for n in counts), _mean(counts)) for criterion, turn, counts in bars]
    return layered(title, layers, head, rows, height=_BAR * len(names))


def histogram(title: str, bars: Sequence[tuple[str, int]], x_name: str) -> Chart:
    """How often each range of a number occurs.

    Args:
        title: stands above the chart.
        bars: (where the range begins, how many), in order.
        x_name: what is counted.
    """
    values = [{"first": first, "number": number} for first, number in bars]
    x = alt.X("first:N", title=x_name, sort=None, axis=alt.Axis(labelAngle=0, labelOverlap=True))
    y = alt.Y("number:Q", title="how many", axis=alt.Axis(format=",d", tickMinStep=1, tickCount=5))
    tooltip = [alt.Tooltip("first:N", title=f"{x_name} from"), alt.Tooltip("number:Q", title="how many", format=",d")]
    layer = alt.Chart(alt.InlineData(values)).mark_bar(color="var(--last)").encode(x=x, y=y, tooltip=tooltip)
    return layered(title, [layer], (f"{x_name} from", "how many"), [(first, f"{number:,}") for first, number in bars])


def layered(
    title: str, layers: Sequence[alt.Chart], head: Sequence[str], rows: Sequence[Sequence[str]], height: int = _HEIGHT
) -> Chart:
    """Layers over each other, in the page's colours; `head` and `rows` are the figures as texts."""
    drawn = alt.layer(*layers, width="container", height=height, description=title).configure(
        background="transparent",
        font=_FONT,
        padding=0,
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
        view=alt.ViewConfig(stroke=None),
        axis=alt.AxisConfig(
            labelColor=_SOFT, titleColor=_SOFT, labelFontSize=12, titleFontSize=12, titleFontWeight="normal",
            gridColor="var(--grid)", domainColor=_SOFT, ticks=False, labelPadding=6,
        ),
        axisY=alt.AxisConfig(domain=False, titleAngle=0, titleAlign="left", titleAnchor="end", titleX=-32, titleY=-14),
        legend=alt.LegendConfig(orient="bottom", columns=3, title=None, labelColor=_INK, labelFontSize=13,
                                symbolOpacity=1, symbolSize=90, labelLimit=200),
        text=alt.MarkConfig(fontSize=12),
    )  # fmt: skip
    return Chart(title, drawn.to_dict(), Table.of_texts("", "", head, rows))


def _scale(low: float, high: float) -> alt.Scale:
    return alt.Scale(domain=[low, high], nice=False, zero=False)


def _colours(field: str, series: Sequence[Series]) -> alt.Color:
    """Each line in its colour, in that of text where the page has none of that name."""
    colours = [f"var(--{one.colour},{_INK})" for one in series]
    return alt.Color(f"{field}:N", title=None, scale=alt.Scale(domain=[one.name for one in series], range=colours))


def _shapes(series: Sequence[Series]) -> alt.Shape:
    """The first line's points are squares, so that two lines differ without their colours."""
    shapes = ["square", *["circle"] * (len(series) - 1)]
    return alt.Shape("line:N", title=None, scale=alt.Scale(domain=[one.name for one in series], range=shapes))


def _rating(number: int, point: Point, series: Sequence[Series]) -> dict[str, Any]:
    """A point as the chart has it: beside those of the other lines at its turn, its value above or below them."""
    low, high = point.low, point.high
    known = low is not None and high is not None
    low, high = (max(low, 1.0), min(high, 4.0)) if low is not None and high is not None else (point.y, point.y)
    others = [(p.y, -n) for n, one in enumerate(series) if n != number for p in one.points if p.x == point.x]
    above = (point.y, -number) >= max(others, default=(point.y, -number))
    return {
        "line": series[number].name, "turn": point.x, "place": point.x + 0.06 * (number - (len(series) - 1) / 2),
        "rating": point.y, "low": low, "high": high, "label": high + 0.15 if above else low - 0.18,
        "interval": f"{low:.2f}–{high:.2f}" if known else NOTHING, "n": point.n,
    }  # fmt: skip


def _thin(points: Sequence[Point]) -> list[Point]:
    """At most `MAX_POINTS` and the last."""
    step = math.ceil(len(points) / MAX_POINTS)
    return [*points[:-1:step], points[-1]]


def _landmarks(points: Sequence[Point]) -> tuple[Point, Point, Point]:
    return points[0], min(points, key=lambda point: point.y), points[-1]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    # A curve of many decades has room for the powers of ten only.
    factors = (1, 2, 5) if len(decades) < 6 else (1,)
    return [float(f"{factor}e{decade}") for decade in decades for factor in factors]


def _bands(stages: Sequence[tuple[str, float, float]], end: float) -> list[dict[str, Any]]:
    """The background of each stage. A narrow stage's name would run into the one before: it goes a line lower."""
    bands: list[dict[str, Any]] = []
    written = 0.0
    for number, (name, first, last) in enumerate(stages):
        place = first / end * _NARROW
        line = int(place < written)
        written = written if line else place + 8 + 6.5 * len(name)
        bands.append(
            {
                "stage": name,
                "first": first,
                "last": last,
                "line": line,
                "colour": "transparent" if number % 2 else "var(--band)",
            }
        )
    return bands


def _row(criterion: str, turn: str) -> str:
    return f"{criterion}\nturn {turn}"


def _parts(criterion: str, turn: str, counts: Sequence[int]) -> list[dict[str, Any]]:
    """The parts of one bar, from left to right."""
    total, before, parts = sum(counts), 0, []
    for number, (rating, n) in enumerate(zip(RATINGS, counts, strict=True)):
        if n:
            start, end = before / total, (before + n) / total
            # A number that is wider than its part would cover its neighbours.
            label = f"{n:,}" if (end - start) * _NARROW / 2 > 7 * len(f"{n:,}") + 2 else ""
            parts.append(
                {"row": _row(criterion, turn), "criterion": criterion, "turn": turn, "rating": rating, "answers": n,
                 "of": total, "start": start, "end": end, "middle": (start + end) / 2, "label": label,
                 "ink": f"var(--r{number + 1}-ink)"}
            )  # fmt: skip
            before += n
    return parts


def _end(criterion: str, turn: str, counts: Sequence[int]) -> dict[str, Any]:
    """Mean and n, which stand at the end of a bar."""
    return {"row": _row(criterion, turn), "text": f"{_mean(counts)} · {sum(counts):,}"}


def _mean(counts: Sequence[int]) -> str:
    rated = sum(counts[:4])
    return f"{sum((i + 1) * n for i, n in enumerate(counts[:4])) / rated:.2f}" if rated else NOTHING


def _count(n: int | None) -> str:
    return NOTHING if n is None else f"{n:,}"
