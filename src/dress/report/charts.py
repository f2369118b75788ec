"""Charts as inline SVG, without library or script. Colours are CSS variables of the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

# 400 units wide, so that text of 12 keeps a readable size on a phone.
WIDTH, HEIGHT = 400, 270
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 34, 40
MAX_POINTS = 400
RATINGS = ("1", "2", "3", "4", "not rated")


@dataclass(frozen=True)
class Point:
    """A point; `low` and `high` are its interval, drawn where both are there."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    n: int | None = None


@dataclass(frozen=True)
class Series:
    """A line. `colour` is the name of a CSS variable, `square` its kind of marker."""

    name: str
    colour: str
    points: Sequence[Point]
    square: bool = False


@dataclass(frozen=True)
class _Scale:
    """Data to units along one axis."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (value - low) / ((high - low) or 1) * (self.end - self.start)


def ratings_by_turn(title: str, series: Sequence[Series]) -> str:
    """Mean rating (1-4) over turns with interval bars.

    Args:
        title: shown above the chart.
        series: x is the turn, y the mean rating.

    Returns:
        A `<figure>`.
    """
    last = max((point.x for one in series for point in one.points), default=1)
    x = _Scale(-0.35, max(last, 1) + 0.35, LEFT, WIDTH - RIGHT)
    y = _Scale(1, 4, HEIGHT - BOTTOM, TOP)
    ticks = [(x(turn), str(turn)) for turn in range(int(max(last, 1)) + 1)]
    parts = [_axes(ticks, [(y(r), str(r)) for r in (1, 2, 3, 4)], "turn", "mean rating (1–4)")]
    for number, one in enumerate(series):
        # Side by side, so that bars of equal figures do not hide each other.
        shift = (number - (len(series) - 1) / 2) * 9
        parts.append(_line([(x(p.x) + shift, y(p.y)) for p in one.points], one.colour))
        for point in one.points:
            others = [p.y for s in series if s is not one for p in s.points if p.x == point.x]
            above = not others or (point.y, -number) > (max(others), -(1 - number))
            parts.append(_marked(one, point, x(point.x) + shift, y, above))
    return _figure(title, _svg(title, "".join(parts), _said(series)), _legend(series))


def losses(title: str, series: Sequence[Series], stages: Sequence[tuple[str, float, float]]) -> str:
    """Loss by phase over the curriculum, on a log scale.

    Args:
        title: shown above the chart.
        series: x is curriculum/step, y a loss above 0.
        stages: (name, first step, last step), marked in the background.

    Returns:
        A `<figure>`.
    """
    values = [point.y for one in series for point in one.points]
    steps = [point.x for one in series for point in one.points] + [end for _, _, end in stages]
    high = max(values, default=10.0)
    low = min([*values, high / 4])  # room for two labels on the axis at least
    x = _Scale(0, max(steps, default=1), LEFT, WIDTH - RIGHT)
    y = _Scale(low / 1.15, high * 1.15, HEIGHT - BOTTOM, TOP, log=True)
    x_ticks = [(x(step), f"{step:,g}") for step in _round_ticks(x.high)]
    y_ticks = [(y(value), f"{value:g}") for value in _log_ticks(y.low, y.high)]
    parts = [_bands(stages, x)]
    parts.append(_axes(x_ticks, y_ticks, "curriculum step", "loss (nats per token, log scale)"))
    for one in series:
        points = one.points[:: math.ceil(len(one.points) / MAX_POINTS)] if one.points else []
        if one.points and points[-1] is not one.points[-1]:
            points = [*points, one.points[-1]]
        parts.append(_line([(x(p.x), y(p.y)) for p in points], one.colour))
        parts += [_marker(one, x(p.x), y(p.y)) for p in points if len(points) < 3]
    return _figure(title, _svg(title, "".join(parts), _said(series)), _legend(series))


def rating_bars(title: str, table: Mapping[str, Mapping[str, Sequence[int]]], what: str = "collected answers") -> str:
    """How often each rating was given: one bar per criterion and turn, as shares of its answers.

    Args:
        title: shown above the chart.
        table: criterion -> turn -> how many answers got 1, 2, 3, 4 and no rating.
        what: was rated.

    Returns:
        A `<figure>`.
    """
    left, right, bar = 50, 92, 22
    scale = _Scale(0, 1, left, WIDTH - right)
    parts, said, top = [], [], 22
    parts.append(f'<text x="{WIDTH}" y="12" class="end">mean · n</text>')
    for criterion, turns in table.items():
        parts.append(f'<text x="0" y="{top + 8}" class="strong">{escape(criterion)}</text>')
        top += 15
        for turn, counts in turns.items():
            total, rated = sum(counts), sum(counts[:4])
            mean = sum((i + 1) * n for i, n in enumerate(counts[:4])) / rated if rated else None
            told = "–" if mean is None else f"{mean:.2f}"
            middle = top + bar / 2 + 4
            parts.append(f'<text x="0" y="{middle}">turn {escape(str(turn))}</text>')
            parts.append(f'<text x="{WIDTH}" y="{middle}" class="end">{told} · {total}</text>')
            parts.append(_stack(counts, total, scale, top, bar))
            given = ", ".join(f"{name}: {n}" for name, n in zip(RATINGS, counts, strict=True))
            said.append(f"{criterion} turn {turn}: {given}")
            top += bar + 4
        top += 10
    for share in (0, 0.5, 1):
        parts.append(f'<text x="{scale(share)}" y="{top + 6}" class="mid">{100 * share:.0f} %</text>')
    parts.append(f'<text x="{scale(0.5)}" y="{top + 22}" class="mid axis">share of {what}</text>')
    names = [(f"rating {r}" if r.isdigit() else r, f"r{i + 1}") for i, r in enumerate(RATINGS)]
    svg = _svg(title, "".join(parts), "; ".join(said), height=top + 28)
    return _figure(title, svg, _legend_of([(name, colour, True) for name, colour in names]))


def histogram(title: str, bars: Sequence[tuple[str, int]], x_name: str) -> str:
    """How often each range of a number occurs.

    Args:
        title: shown above the chart.
        bars: (where the range begins, how many), in order.
        x_name: what is counted.

    Returns:
        A `<figure>`.
    """
    x = _Scale(0, len(bars), LEFT, WIDTH - RIGHT)
    y = _Scale(0, max(n for _, n in bars), HEIGHT - BOTTOM, TOP)
    every = math.ceil(len(bars) / 8)  # more labels than that run into each other
    x_ticks = [(x(number), name) for number, (name, _) in enumerate(bars) if number % every == 0]
    y_ticks = [(y(value), f"{value:,g}") for value in _round_ticks(y.high) if value == int(value)]
    parts = [_axes(x_ticks, y_ticks, x_name, "how many")]
    for number, (name, n) in enumerate(bars):
        parts.append(
            f'<rect x="{x(number) + 0.5:.1f}" y="{y(n):.1f}" width="{x(1) - x(0) - 1:.1f}" '
            f'height="{y(0) - y(n):.1f}" style="fill:{_var("dress")}"><title>from {escape(name)}: {n:,}</title></rect>'
        )
    said = ", ".join(f"from {name}: {n}" for name, n in bars)
    return _figure(title, _svg(title, "".join(parts), said), "")


def _stack(counts: Sequence[int], total: int, scale: _Scale, top: float, bar: float) -> str:
    parts, before = [], 0
    for number, n in enumerate(counts):
        if not n:
            continue
        start, end = scale(before / total), scale((before + n) / total)
        name = RATINGS[number] if number == 4 else f"rating {RATINGS[number]}"
        parts.append(
            f'<rect x="{start:.1f}" y="{top}" width="{max(end - start - 1, 0.5):.1f}" '
            f'height="{bar}" style="fill:var(--r{number + 1})">'
            f"<title>{name}: {n} of {total}</title></rect>"
        )
        if end - start > 8 * len(str(n)) + 4:
            parts.append(
                f'<text x="{(start + end) / 2:.1f}" y="{top + bar / 2 + 4}" class="mid" '
                f'style="fill:var(--r{number + 1}-ink)">{n}</text>'
            )
        before += n
    return "".join(parts)


def _axes(
    x_ticks: Sequence[tuple[float, str]],
    y_ticks: Sequence[tuple[float, str]],
    x_name: str,
    y_name: str,
) -> str:
    floor = HEIGHT - BOTTOM
    parts = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
        f'<text class="end" x="{LEFT - 6}" y="{at + 4:.1f}">{label}</text>'
        for at, label in y_ticks
    ]
    parts += [f'<text class="mid" x="{at:.1f}" y="{floor + 16}">{label}</text>' for at, label in x_ticks]
    parts.append(f'<line class="base" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="mid axis" x="{middle}" y="{HEIGHT - 6}">{x_name}</text>')
    parts.append(f'<text class="axis" x="0" y="12">{y_name}</text>')
    return "".join(parts)


def _bands(stages: Sequence[tuple[str, float, float]], x: _Scale) -> str:
    parts, written = [], 0.0
    for number, (name, first, last) in enumerate(stages):
        start, end = x(first), x(last)
        parts.append(
            f'<rect class="band{number % 2}" x="{start:.1f}" y="{TOP - 10}" '
            f'width="{max(end - start, 0):.1f}" height="{HEIGHT - BOTTOM - TOP + 10}"/>'
        )
        # A narrow stage's name would run into the one before: it goes a line lower.
        line = TOP + 2 if start + 4 >= written else TOP + 15
        parts.append(f'<text class="stage" x="{start + 4:.1f}" y="{line}">{escape(name)}</text>')
        written = start + 8 + 6.5 * len(name) if line == TOP + 2 else written
    return "".join(parts)


def _line(points: Sequence[tuple[float, float]], colour: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="line" points="{path}" style="stroke:{_var(colour)}"/>'


def _marked(series: Series, point: Point, x: float, y: _Scale, above: bool) -> str:
    """Interval bar, marker and the value beside it."""
    low = point.y if point.low is None else max(point.low, y.low)
    high = point.y if point.high is None else min(point.high, y.high)
    at = y(high) - 8 if above else y(low) + 17
    n = "" if point.n is None else f", n = {point.n}"
    stroke = f'style="stroke:{_var(series.colour)}"'
    return (
        f"<g><title>{escape(series.name)}, turn {point.x:g}: {point.y:.2f} "
        f"[{low:.2f}, {high:.2f}]{n}</title>"
        f'<path class="bar" d="M{x:.1f} {y(low):.1f}V{y(high):.1f}M{x - 4:.1f} {y(low):.1f}h8'
        f'M{x - 4:.1f} {y(high):.1f}h8" {stroke}/>{_marker(series, x, y(point.y))}'
        f'<text class="mid strong halo" x="{x:.1f}" y="{at:.1f}" '
        f'style="fill:{_var(series.colour)}">{point.y:.2f}</text></g>'
    )


def _marker(series: Series, x: float, y: float) -> str:
    fill = f'style="fill:{_var(series.colour)}"'
    if series.square:
        return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" {fill}/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" {fill}/>'


def _round_ticks(high: float) -> list[float]:
    step = 10.0 ** math.floor(math.log10(max(high, 1) / 2))
    step = next(step * factor for factor in (1, 2, 5, 10) if high / (step * factor) <= 5)
    return [number * step for number in range(int(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    # A curve of many decades has room for the powers of ten only.
    factors = (1, 2, 5) if len(decades) < 5 else (1,)
    ticks = [factor * 10.0**decade for decade in decades for factor in factors]
    return [tick for tick in ticks if low <= tick <= high]


def _said(series: Sequence[Series]) -> str:
    """First and last value of each line, for those who do not see it."""
    told = [
        f"{one.name}: {one.points[0].y:.2f} at {one.points[0].x:g} to {one.points[-1].y:.2f} at {one.points[-1].x:g}"
        for one in series
        if one.points
    ]
    return "; ".join(told)


def _var(colour: str) -> str:
    """A colour of the page; text colour where the page has none of that name."""
    return f"var(--{colour},var(--ink))"


def _svg(title: str, inner: str, said: str, height: float = HEIGHT) -> str:
    label = escape(f"{title}. {said}" if said else title)
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{label}">'
        f"<title>{escape(title)}</title>{inner}</svg>"
    )


def _legend(series: Sequence[Series]) -> str:
    return _legend_of([(one.name, one.colour, one.square) for one in series])


def _legend_of(entries: Sequence[tuple[str, str, bool]]) -> str:
    items = "".join(
        f'<li><i class="{"square" if square else "round"}" style="background:{_var(colour)}"></i>{escape(name)}</li>'
        for name, colour, square in entries
    )
    return f'<ul class="legend">{items}</ul>'


def _figure(title: str, svg: str, legend: str) -> str:
    return f"<figure><figcaption>{escape(title)}</figcaption>{svg}{legend}</figure>"
