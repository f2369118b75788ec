"""A chart as a picture of its own (SVG), in plain colours: what a paper or a slide takes."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.resources import files
from pathlib import Path

import vl_convert

from dress.base.files import write_text
from dress.report.charts import Chart

_COLOUR = re.compile(r"var\(--([\w-]+)(?:,[^()]*(?:\([^()]*\))?)?\)")
"""A colour of the page."""


def write_picture(file: Path, chart: Chart, width: int = 900) -> None:
    """Write a chart as SVG.

    Args:
        file: its name ends in `.svg`.
        chart: of a page.
        width: in pixels.
    """
    write_text(file, svg(chart, width))


def svg(chart: Chart, width: int = 900) -> str:
    """The chart with its title, on white, in the colours of a page in daylight; the same chart gives the same text."""
    colours = _colours()
    text = json.dumps(chart.specification)
    specification = json.loads(_COLOUR.sub(lambda match: colours.get(match[1], colours["ink"]), text))
    specification |= {"width": width, "title": {"text": chart.title, "anchor": "start", "offset": 14}}
    specification["config"] |= {"background": "white", "padding": 16}
    drawn: str = vl_convert.vegalite_to_svg(specification)
    return drawn.replace("<text ", '<text paint-order="stroke" ')  # letters above what parts them from lines


@cache
def _colours() -> dict[str, str]:
    """Name to colour, of the page's first rule."""
    style = files("dress.report").joinpath("templates", "style.css").read_text(encoding="utf-8")
    return dict(re.findall(r"--([\w-]+):(#\w+)", style[: style.index("}")]))
