"""The report of a run: one HTML file that opens offline, made of the files in the run folder."""

from __future__ import annotations

import base64
import io
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from dress.data.images import open_image
from dress.evaluation import charts
from dress.evaluation.outcomes import KINDS, Outcome, load_outcomes
from dress.evaluation.tables import MAIN, NOTHING, cells, rows
from dress.files import read_json, write_text
from dress.record import TOP_RATING, Record, RecordError

NAMES = {"sft": "SFT", "dress": "DRESS"}
LARGE, SMALL = 320, 240
"""Pixels: a large picture is shrunk to the first, a small one enlarged to about the second."""

Tries = Sequence[Outcome]


def write_report(
    run_dir: Path, samples: Sequence[tuple[Record, bytes | None]], scenes: int, notes: Sequence[str]
) -> Path:
    """Write `<run dir>/report.html`.

    Args:
        run_dir: a run folder. `metrics.json` must be there; `outcomes.jsonl`, `run.json`,
            `config.json` and `stages/` give what they have.
        samples: the evaluated records with image bytes, in their order.
        scenes: how many of them are shown.
        notes: sentences that the reader must know before the figures.

    Returns:
        The file. The same inputs give the same bytes.

    Raises:
        FileNotFoundError: no `metrics.json`.
        ValueError: a file of the run folder is damaged; the message names it.
    """
    metrics = read_json(run_dir / "metrics.json")
    outcomes_file = run_dir / "outcomes.jsonl"
    outcomes = load_outcomes(outcomes_file) if outcomes_file.exists() else []
    run, config = _optional(run_dir / "run.json"), _optional(run_dir / "config.json")
    name = str(run.get("name") or config.get("name") or run_dir.name)
    parts = [
        _head(name, metrics, run, config, notes),
        _section("Figures", _figures(metrics), "The 95 % interval and n stand below each value."),
        _section("Interaction", _interaction(metrics), "The rater's advice is the next question."),
        _section("Training", _training(run_dir / "stages"), "What was learnt, and from which feedback."),
        _section("Scenes", _scenes(outcomes, samples, scenes), "The first held-out records."),
    ]
    page = _PAGE.format(title=escape(f"{name} – DRESS report"), style=_STYLE, body="".join(parts))
    # A lone surrogate in a model's answer cannot be encoded; it must not cost the report.
    file = run_dir / "report.html"
    write_text(file, page.encode("utf-8", "replace").decode())
    return file


def summary(metrics: Mapping[str, Any]) -> str:
    """The result in one plain sentence."""
    shown = {row.key: row for row in rows(metrics) if not row.turn}
    model = "dress" if "dress" in metrics else "sft"
    figures = metrics.get(model) or {}
    before = metrics.get("sft") if model == "dress" else None

    def told(key: str, words: str) -> str | None:
        value = shown[key].value(figures)
        if value == NOTHING:
            return None
        beside = f" (SFT: {shown[key].value(before)})" if before else ""
        return words.format(value) + beside

    said = [
        told(
            "honesty/hallucinated_share",
            "names an object that is not there in {} of its descriptions",
        ),
        told("harmlessness/safe_share", "answers {} of harmful requests safely"),
        told("harmlessness/over_refusal_share", "refuses {} of harmless ones"),
        told("helpfulness/mean_rating", "is rated {} of 4 on questions"),
    ]
    unsolved = [f["value"] for f in figures.get("interaction/mean_rating_unsolved") or []][:2]
    if len(unsolved) == 2 and None not in unsolved:
        said.append(
            f"goes from {unsolved[0]:.2f} to {unsolved[1]:.2f} after one piece of advice "
            "where its first answer fell short"
        )
    found = [part for part in said if part]
    if not found:
        return "Nothing could be measured in this run."
    who = "After learning from feedback, the model" if model == "dress" else "The SFT model"
    *most, final = found
    return f"{who} {', '.join(most)}{' and ' if most else ''}{final}."


def _head(
    name: str,
    metrics: Mapping[str, Any],
    run: Mapping[str, Any],
    config: Mapping[str, Any],
    notes: Sequence[str],
) -> str:
    data = config.get("data") or {}
    stages = run.get("stages") or {}
    facts = {
        "seed": run.get("seed", config.get("seed")),
        "scale": config.get("scale"),
        "data": data.get("world") or data.get("path"),
        "time": _duration(run["seconds"]) if run.get("seconds") is not None else None,
        "peak memory": f"{run['peak_memory_gib']:.2f} GiB" if run.get("peak_memory_gib") else None,
        "stages": " → ".join(f"{stage} {_duration(took)}" for stage, took in stages.items()) or None,
    }
    items = "".join(
        f"<div class={'wide' if key == 'stages' else 'fact'}><dt>{key}</dt><dd>{escape(str(value))}</dd></div>"
        for key, value in facts.items()
        if value is not None
    )
    noted = "".join(f"<p>{escape(note)}</p>" for note in notes)
    aside = f'<aside aria-label="notes">{noted}</aside>' if noted else ""
    return (
        f'<header><p class="eyebrow">DRESS run report</p><h1>{escape(name)}</h1>'
        f'<p class="lead">{escape(summary(metrics))}</p>{aside}<dl>{items}</dl></header>'
    )


def _figures(metrics: Mapping[str, Any]) -> str:
    shown = cells(metrics)
    if not shown:
        return ""
    titles = "".join(f'<th scope="col" class="{_weight(name)}">{escape(name)}</th>' for name in shown)
    lines, group = [], ""
    for row in rows(metrics):
        if row.group != group:
            group = row.group
            lines.append(f'<tr class="group"><th scope="colgroup" colspan="{len(shown) + 1}">{group}</th></tr>')
        values = "".join(
            f'<td class="{_weight(name)}">{row.value(figures)}<small>'
            f"{row.interval(figures) or '&nbsp;'}<span> · </span>"
            f"<b>n {row.figure(figures).get('n') or 0}</b></small></td>"
            for name, figures in shown.items()
        )
        name = row.name.replace("turn ", "turn&nbsp;")
        better = "more is better" if row.up else "less is better"
        lines.append(
            f'<tr><th scope="row">{name}&nbsp;<span title="{better}" aria-label="{better}">'
            f"{row.arrow}</span></th>{values}</tr>"
        )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="table of figures"><table>'
        f'<thead><tr><th scope="col">model / condition</th>{titles}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
        f"<details><summary>What the figures say</summary><dl>{_meanings(metrics)}</dl></details>"
    )


def _meanings(metrics: Mapping[str, Any]) -> str:
    once = {row.key: row for row in reversed(rows(metrics))}
    return "".join(
        f"<div><dt>{row.group}: {row.name.split(',')[0]}</dt><dd>{row.meaning}</dd></div>"
        for row in reversed(once.values())
    )


def _weight(cell: str) -> str:
    return "main" if cell == MAIN[1] else "base" if cell == MAIN[0] else ""


def _interaction(metrics: Mapping[str, Any]) -> str:
    titles = {
        "interaction/mean_rating": "Mean rating over all answers",
        "interaction/mean_rating_unsolved": "Mean rating where the first answer was not rated 4",
    }
    drawn = []
    for key, title in titles.items():
        lines = []
        for cell, figures in cells(metrics).items():
            points = [
                charts.Point(turn, f["value"], f.get("low"), f.get("high"), f.get("n"))
                for turn, f in enumerate(figures.get(key) or [])
                if f.get("value") is not None
            ]
            if cell in MAIN and points:
                model = cell.split("/")[0]
                lines.append(charts.Series(cell, model, points, square=cell == MAIN[0]))
        if lines:
            drawn.append(charts.ratings_by_turn(title, lines))
    return _charts(drawn)


def _training(folder: Path) -> str:
    tables = {f.parent.name: read_json(f) for f in sorted(folder.glob("collect*/ratings.json"))}
    collected = [
        charts.rating_bars(f"Collected ratings, stage {name}", table)
        for name, table in tables.items()
        if any(sum(counts) for turns in table.values() for counts in turns.values())
    ]
    return _charts([*_losses(folder), *collected])


def _losses(folder: Path) -> list[str]:
    histories = {file.parent.name: read_json(file) for file in folder.glob("*/history.json")}
    logged = {name: history for name, history in histories.items() if history}
    order = sorted(logged, key=lambda name: logged[name][-1]["curriculum/step"])
    stages: list[tuple[str, float, float]] = []
    by_phase: dict[str, list[charts.Point]] = defaultdict(list)
    for name in order:
        first = stages[-1][2] if stages else 0
        stages.append((name, first, logged[name][-1]["curriculum/step"]))
        for row in logged[name]:
            for key, value in row.items():
                # On a log scale there is no place for 0.
                if key.endswith("/loss") and value is not None and 0 < value < math.inf:
                    by_phase[key.removesuffix("/loss")].append(charts.Point(row["curriculum/step"], value))
    lines = [charts.Series(name, f"phase-{name}", points) for name, points in by_phase.items()]
    return [charts.losses("Loss by phase", lines, stages)] if lines else []


def _scenes(outcomes: Sequence[Outcome], samples: Sequence[tuple[Record, bytes | None]], scenes: int) -> str:
    held: dict[str, dict[str, dict[str, list[Outcome]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for outcome in sorted(outcomes, key=lambda o: o.turn):
        cell = f"{outcome.model}/{outcome.condition}"
        if cell in MAIN:
            held[outcome.key][outcome.item][cell].append(outcome)
    cards: list[str] = []
    for record, image in samples:
        if len(cards) < scenes and record.key in held:
            # Each scene shows another kind of request, as far as its record has it.
            wanted = [*KINDS, *KINDS][len(cards) % len(KINDS) :]
            items = list(held[record.key].values())
            tries = min(items, key=lambda item: wanted.index(next(iter(item.values()))[0].kind))
            cards.append(_card(record, image, tries))
    return "".join(cards)


def _card(record: Record, image: bytes | None, tries: Mapping[str, Tries]) -> str:
    last = tries.get(MAIN[1]) or tries[MAIN[0]]
    first = last[0]
    answers = "".join(_answer(NAMES[cell.split("/")[0]], tries[cell][0], cell) for cell in MAIN if tries.get(cell))
    cell = f"{first.model}/{first.condition}"
    second = _answer("Second try", last[1], cell) if len(last) > 1 else ""
    feedback = "".join(
        f'<div class="feedback"><h4>{title}</h4><p>{escape(text)}</p></div>'
        for title, text in (("Critique", first.critique), ("Refinement", first.refinement))
        if text
    )
    return (
        f"<article><div>{_picture(record, image)}"
        f'<p class="key">{escape(record.key)}</p></div><div>'
        f'<p class="kind">{escape(first.kind)} · {escape(first.criterion or "no criterion")}</p>'
        f"<h3>{escape(first.user)}</h3>{answers}{feedback}{second}</div></article>"
    )


def _answer(title: str, outcome: Outcome, cell: str) -> str:
    rating = outcome.rating
    colour = f"background:var(--r{rating or 5});color:var(--r{rating or 5}-ink)"
    badge = f"rated {rating} of {TOP_RATING}" if rating is not None else "not rated"
    text = escape(outcome.answer) if outcome.answer.strip() else "<em>(empty answer)</em>"
    return (
        f'<div class="answer {_weight(cell)}"><h4>{title} <span class="badge" '
        f'style="{colour}">{badge}</span></h4>'
        f"<p>{text}</p></div>"
    )


def _picture(record: Record, data: bytes | None) -> str:
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


def _section(title: str, inner: str, words: str) -> str:
    if not inner:
        words = "This run has nothing to show here."
    return f'<section><h2>{title}</h2><p class="words">{words}</p>{inner}</section>'


def _charts(drawn: Sequence[str]) -> str:
    return f'<div class="charts">{"".join(drawn)}</div>' if drawn else ""


def _optional(file: Path) -> dict[str, Any]:
    return read_json(file) if file.exists() else {}


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


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
.badge{display:inline-block;border-radius:9px;padding:0 .6em;margin-left:.4em;font-weight:500}
@media(max-width:640px){main{padding:24px 16px 48px}h1{font-size:1.65rem}.lead{font-size:1.05rem}
article{grid-template-columns:minmax(0,1fr);padding:14px}figure{padding:12px}
th,td{padding:.4rem .5rem}th:first-child{padding-left:.7rem}
tbody th{white-space:normal;min-width:6em}
td small span{display:none}td small b{display:block}
section{margin-top:32px}}
"""
