"""HTML pages that open offline: one file, no script, pictures as data URIs, light and dark, narrow and wide."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from dress.base.files import write_text
from dress.data.images import open_image
from dress.record import TOP_RATING, Record, RecordError

LARGE, SMALL = 320, 240
"""Pixels: a large picture is shrunk to the first, a small one enlarged to about the second."""


def write_page(file: Path, title: str, parts: Sequence[str]) -> None:
    """Write a page of HTML parts; the same parts give the same bytes."""
    page = _PAGE.format(title=escape(title), style=_STYLE, body="".join(parts))
    # A lone surrogate in a model's answer cannot be encoded; it must not cost the page.
    write_text(file, page.encode("utf-8", "replace").decode())


def header(eyebrow: str, name: str, lead: str, notes: Sequence[str], facts: Mapping[str, Any], wide: str = "") -> str:
    """Title, a sentence, notes that come first, and facts (those that are None are left out).

    `wide` is the fact that takes a line of its own.
    """
    items = "".join(
        f"<div class={'wide' if key == wide else 'fact'}><dt>{escape(key)}</dt><dd>{escape(str(value))}</dd></div>"
        for key, value in facts.items()
        if value is not None
    )
    noted = "".join(f"<p>{escape(note)}</p>" for note in notes)
    aside = f'<aside aria-label="notes">{noted}</aside>' if noted else ""
    return (
        f'<header><p class="eyebrow">{escape(eyebrow)}</p><h1>{escape(name)}</h1>'
        f'<p class="lead">{escape(lead)}</p>{aside}<dl>{items}</dl></header>'
    )


def section(title: str, inner: str, words: str, empty: str) -> str:
    """A section; `empty` stands for `words` where there is nothing inside."""
    return f'<section><h2>{title}</h2><p class="words">{words if inner else empty}</p>{inner}</section>'


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts that scrolls by itself where it is too wide; the first column is its names."""
    titles = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    lines = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(value)}</td>" for value in row[1:])}</tr>'
        for row in rows
    )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="table"><table class="plain">'
        f"<thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def side_by_side(charts: Sequence[str]) -> str:
    """Charts, as many beside each other as fit."""
    return f'<div class="charts">{"".join(charts)}</div>' if charts else ""


def badge(rating: int | None) -> str:
    """A rating in its colour."""
    colour = f"background:var(--r{rating or 5});color:var(--r{rating or 5}-ink)"
    told = f"rated {rating} of {TOP_RATING}" if rating is not None else "not rated"
    return f'<span class="badge" style="{colour}">{told}</span>'


def picture(record: Record, data: bytes | None) -> str:
    """The record's picture, or why there is none."""
    if data is None:
        return '<p class="none">no picture</p>'
    try:
        image = open_image(data, record.key)
    except RecordError:
        return '<p class="none">the picture cannot be read</p>'
    longest = max(image.size)
    factor = max(1, SMALL // longest)
    pixelated = " class=pixelated" if factor > 1 else ""
    buffer = io.BytesIO()
    if longest > LARGE:
        image.thumbnail((LARGE, LARGE), Image.Resampling.LANCZOS)
    kind = "png" if pixelated else "jpeg"
    image.save(buffer, format=kind, quality=85)
    source = base64.b64encode(buffer.getvalue()).decode()
    named = ", ".join(thing.label for thing in record.annotation.objects) or "not annotated"
    return (
        f'<img{pixelated} src="data:image/{kind};base64,{source}" width="{image.width * factor}" '
        f'height="{image.height * factor}" alt="{escape(f"picture of {record.key}: {named}")}">'
    )


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title><style>{style}</style></head><body><main>{body}</main></body></html>
"""
_STYLE = """
:root{--bg:#fbfaf8;--card:#fff;--ink:#1f2328;--soft:#5b6470;--rule:#dedbd5;--grid:#ebe8e2;
--band0:#f4f1ec;--band1:#fff;--tint:#eaf1fb;--sft:#b0500a;--dress:#1f5fae;
--phase-align:#6b7280;--phase-sft:#b0500a;--phase-critique:#1f5fae;--phase-refinement:#0b7a5a;
--phase-rating:#a33f80;--phase-best_of:#8a6d00;
--r1:#c2570c;--r2:#f3b67c;--r3:#a9cbee;--r4:#1f5fae;--r5:#c9ccd1;
--r1-ink:#fff;--r2-ink:#3b1d02;--r3-ink:#0b2545;--r4-ink:#fff;--r5-ink:#1f2328}
@media(prefers-color-scheme:dark){:root{--bg:#15181c;--card:#1c2026;--ink:#e6e8eb;--soft:#9aa4b0;
--rule:#343a43;--grid:#2a2f37;--band0:#22272e;--band1:#1c2026;--tint:#1c2c40;--sft:#f0984f;
--dress:#78aef0;--phase-align:#a3abb6;--phase-sft:#f0984f;--phase-critique:#78aef0;
--phase-refinement:#4cc9a0;--phase-rating:#e58cc4;--phase-best_of:#e0c04a;
--r1:#d9691c;--r2:#f0b57c;--r3:#8db9e8;--r4:#2f6fc4;--r5:#4a515b;--r1-ink:#1a0b00;--r5-ink:#e6e8eb}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);-webkit-text-size-adjust:100%;
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1080px;margin:0 auto;padding:40px 24px 72px;overflow-wrap:anywhere}
h1{font-size:2.1rem;line-height:1.15;margin:0 0 .5rem;letter-spacing:-.02em}
h2{font-size:1.3rem;margin:0 0 .25rem}h3{font-size:1.05rem;margin:0 0 .75rem;line-height:1.35}
h4{font-size:.78rem;margin:0;color:var(--soft);font-weight:600}
.eyebrow,.kind,.key{font-size:.78rem;color:var(--soft);margin:0 0 .3rem}
.lead{font-size:1.15rem;max-width:44em;margin:0 0 1.25rem}
aside{border-left:4px solid var(--sft);background:var(--card);padding:.6rem 1rem;margin:0 0 1.25rem}
aside p{margin:.2rem 0}
dl{display:flex;flex-wrap:wrap;gap:.75rem 2.25rem;margin:0}dl .wide{flex-basis:100%}
dt{font-size:.78rem;color:var(--soft)}dd{margin:0;font-variant-numeric:tabular-nums}
section{margin-top:44px;border-top:1px solid var(--rule);padding-top:20px}
.words,.none{color:var(--soft);margin:0 0 1rem;font-size:.92rem}
.scroll{overflow-x:auto;width:fit-content;max-width:100%;
background:var(--card);border:1px solid var(--rule);border-radius:8px}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;overflow-wrap:normal}
th,td{padding:.45rem .9rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--grid)}
tbody th{min-width:13em}th{font-weight:500}th:first-child{text-align:left}
thead th{color:var(--soft);font-size:.85rem}
tbody tr:last-child>*{border-bottom:0}
tr.group th{color:var(--soft);font-size:.78rem;padding-top:1rem;font-weight:600}
td small{display:block;color:var(--soft);font-size:.74rem;font-weight:400}
td small b{font-weight:400}details{margin-top:.8rem;font-size:.92rem}summary{cursor:pointer}
details dl{display:block;margin-top:.5rem}details dl div{margin-bottom:.4rem}
td.base,td.main{font-weight:650}th.base,th.main{color:var(--ink);font-weight:700}
td.main,th.main{background:var(--tint)}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,420px),1fr));gap:20px;align-items:start}
figure{margin:0;background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:16px;
max-width:560px;width:100%}
figcaption{font-weight:600;font-size:.95rem;margin-bottom:.5rem}
svg{display:block;width:100%;height:auto;font-size:12px}
svg text{fill:var(--soft);font-variant-numeric:tabular-nums}svg .mid{text-anchor:middle}
svg .end{text-anchor:end}svg .strong{font-weight:650;fill:var(--ink)}svg .stage{font-size:11px}
svg .halo{paint-order:stroke;stroke:var(--card);stroke-width:3px}
svg .grid{stroke:var(--grid)}svg .base{stroke:var(--soft)}svg .line{fill:none;stroke-width:2}
svg .bar{fill:none;stroke-width:1.5}svg .band0{fill:var(--band0)}svg .band1{fill:var(--band1)}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;list-style:none;margin:.6rem 0 0;padding:0;
font-size:.85rem}
.legend i{display:inline-block;width:.7em;height:.7em;margin-right:.45em}
.legend .round{border-radius:50%}
article{display:grid;grid-template-columns:240px minmax(0,1fr);gap:24px;background:var(--card);
border:1px solid var(--rule);border-radius:8px;padding:20px;margin-bottom:16px}
img{display:block;max-width:100%;height:auto;border-radius:4px}.pixelated{image-rendering:pixelated}
.key{margin:.4rem 0 0}.answer,.feedback{margin-top:.7rem}.answer p,.feedback p{margin:.1rem 0 0}
.answer{border-left:3px solid var(--sft);padding-left:.8rem}
.answer.main{border-color:var(--dress)}
.feedback{margin-left:.95rem;color:var(--soft)}
table.plain tbody th{min-width:0}.asked{margin:.9rem 0 0;font-weight:600}
.dialogue:not(:first-child){margin-top:1.2rem}
.badge{display:inline-block;border-radius:9px;padding:0 .6em;margin-left:.4em;font-weight:500}
@media(max-width:640px){main{padding:24px 16px 48px}h1{font-size:1.65rem}.lead{font-size:1.05rem}
article{grid-template-columns:minmax(0,1fr);padding:14px}figure{padding:12px}
th,td{padding:.4rem .5rem}th:first-child{padding-left:.7rem}
tbody th{white-space:normal;min-width:6em}
td small span{display:none}td small b{display:block}
section{margin-top:32px}}
"""
