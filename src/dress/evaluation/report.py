"""The report of a run: one HTML file that opens offline, made of the files in the run folder."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from dress.base.files import read_json
from dress.evaluation.outcomes import KINDS, Outcome, load_outcomes
from dress.record import Record
from dress.report import charts
from dress.report.page import badge, header, picture, section, side_by_side, write_page
from dress.report.tables import CONDITIONS, NOTHING, cells, main_cells, rows, weight

NAMES = {"sft": "SFT", "dress": "DRESS"}
OTHERS = ("phase-rating", "phase-refinement", "phase-best_of", "phase-align")
"""Colours of models between the first and the last."""
NOTHING_HERE = "This run has nothing to show here."

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
        section("Figures", _figures(metrics), "The 95 % interval and n stand below each value.", NOTHING_HERE),
        section("Interaction", _interaction(metrics), "The rater's advice is the next question.", NOTHING_HERE),
        section("Training", _training(run_dir / "stages"), "What was learnt, and from which feedback.", NOTHING_HERE),
        section(
            "Scenes",
            _scenes(outcomes, samples, scenes, main_cells(metrics)),
            "The first held-out records.",
            NOTHING_HERE,
        ),
    ]
    file = run_dir / "report.html"
    write_page(file, f"{name} – DRESS report", parts)
    return file


def summary(metrics: Mapping[str, Any]) -> str:
    """The result in one plain sentence."""
    shown = {row.key: row for row in rows(metrics) if not row.turn}
    models = [name for name in metrics if name != CONDITIONS]
    first, model = (models[0], models[-1]) if models else ("sft", "sft")
    figures = metrics.get(model) or {}
    before = metrics[first] if model != first else None

    def told(key: str, words: str) -> str | None:
        value = shown[key].value(figures)
        if value == NOTHING:
            return None
        beside = f" ({_name(first)}: {shown[key].value(before)})" if before else ""
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
    who = "After learning from feedback, the model" if before else f"The {_name(model)} model"
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
    return header("DRESS run report", name, summary(metrics), notes, facts, wide="stages")


def _figures(metrics: Mapping[str, Any]) -> str:
    shown, main = cells(metrics), main_cells(metrics)
    if not shown:
        return ""
    titles = "".join(f'<th scope="col" class="{weight(name, main)}">{escape(name)}</th>' for name in shown)
    lines, group = [], ""
    for row in rows(metrics):
        if row.group != group:
            group = row.group
            lines.append(f'<tr class="group"><th scope="colgroup" colspan="{len(shown) + 1}">{group}</th></tr>')
        values = "".join(
            f'<td class="{weight(name, main)}">{row.value(figures)}<small>'
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


def _name(model: str) -> str:
    return NAMES.get(model, model)


def _interaction(metrics: Mapping[str, Any]) -> str:
    titles = {
        "interaction/mean_rating": "Mean rating over all answers",
        "interaction/mean_rating_unsolved": "Mean rating where the first answer was not rated 4",
    }
    drawn, main = [], main_cells(metrics)
    for key, title in titles.items():
        lines = []
        for number, (cell, figures) in enumerate((cell, metrics[CONDITIONS][cell]) for cell in main):
            points = [
                charts.Point(turn, f["value"], f.get("low"), f.get("high"), f.get("n"))
                for turn, f in enumerate(figures.get(key) or [])
                if f.get("value") is not None
            ]
            if points:
                lines.append(charts.Series(cell, _colour(number, len(main)), points, square=number == 0))
        if lines:
            drawn.append(charts.ratings_by_turn(title, lines))
    return side_by_side(drawn)


def _colour(number: int, models: int) -> str:
    """Of the line of a model: those of SFT and DRESS for the first and the last."""
    return "sft" if number == 0 else "dress" if number == models - 1 else OTHERS[(number - 1) % len(OTHERS)]


def _training(folder: Path) -> str:
    tables = {f.parent.name: read_json(f) for f in sorted(folder.glob("*/ratings.json"))}
    collected = [
        charts.rating_bars(f"Collected ratings, stage {name}", table)
        for name, table in tables.items()
        if any(sum(counts) for turns in table.values() for counts in turns.values())
    ]
    return side_by_side([*_losses(folder), *collected])


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


def _scenes(
    outcomes: Sequence[Outcome], samples: Sequence[tuple[Record, bytes | None]], scenes: int, main: Sequence[str]
) -> str:
    held: dict[str, dict[str, dict[str, list[Outcome]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for outcome in sorted(outcomes, key=lambda o: o.turn):
        cell = f"{outcome.model}/{outcome.condition}"
        if cell in main:
            held[outcome.key][outcome.item][cell].append(outcome)
    cards: list[str] = []
    for record, image in samples:
        if len(cards) < scenes and record.key in held:
            # Each scene shows another kind of request, as far as its record has it.
            wanted = [*KINDS, *KINDS][len(cards) % len(KINDS) :]
            items = list(held[record.key].values())
            tries = min(items, key=lambda item: wanted.index(next(iter(item.values()))[0].kind))
            cards.append(_card(record, image, tries, main))
    return "".join(cards)


def _card(record: Record, image: bytes | None, tries: Mapping[str, Tries], main: Sequence[str]) -> str:
    there = [cell for cell in main if tries.get(cell)]
    last = tries[there[-1]]
    first = last[0]
    answers = "".join(_answer(_name(tries[cell][0].model), tries[cell][0], weight(cell, main)) for cell in there)
    second = _answer("Second try", last[1], weight(there[-1], main)) if len(last) > 1 else ""
    feedback = "".join(
        f'<div class="feedback"><h4>{title}</h4><p>{escape(text)}</p></div>'
        for title, text in (("Critique", first.critique), ("Refinement", first.refinement))
        if text
    )
    return (
        f"<article><div>{picture(record, image)}"
        f'<p class="key">{escape(record.key)}</p></div><div>'
        f'<p class="kind">{escape(first.kind)} · {escape(first.criterion or "no criterion")}</p>'
        f"<h3>{escape(first.user)}</h3>{answers}{feedback}{second}</div></article>"
    )


def _answer(title: str, outcome: Outcome, weight: str) -> str:
    text = escape(outcome.answer) if outcome.answer.strip() else "<em>(empty answer)</em>"
    return f'<div class="answer {weight}"><h4>{escape(title)} {badge(outcome.rating)}</h4><p>{text}</p></div>'


def _optional(file: Path) -> dict[str, Any]:
    return read_json(file) if file.exists() else {}


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
