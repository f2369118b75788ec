"""The report and the tables say what the metrics say, whatever the answers hold."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import altair
import pytest
import vl_convert
from conftest import ROOT
from pages import Parsed, digest, values
from PIL import Image
from rich.console import Console

from dress.base.files import write_json
from dress.config import Eval
from dress.evaluation.outcomes import KINDS, Outcome, kind_of, save_outcomes
from dress.evaluation.report import write_report
from dress.evaluation.suites.run import metrics
from dress.record import Record, Turn
from dress.report.charts import MAX_POINTS, Point, Series, histogram, losses
from dress.report.figures import metrics_table, quantities, runs_table
from dress.report.page import Page, Section, html
from dress.report.tables import Cell, Head, Row, Table
from dress.worlds.shapes import generate
from dress.worlds.shapes.instructions import Instruction, good_answer, habitual_answer
from dress.worlds.shapes.rater import OracleRater
from dress.worlds.shapes.scene import Scene

SAMPLES = list(generate.samples("eval", 8, seed=0))
# How many of three scenes are answered well at the first turn.
CELLS = {("dress", "none"): 1, ("dress", "praise"): 2, ("sft", "none"): 0, ("sft", "praise"): 0}
KEYS = ("helpfulness", "honesty", "harmlessness", "interaction")
TRAINED = {"align": ("align", 0), "sft": ("sft", 40), "dress": ("critique", 80)}
"""Stage to its phase and the steps before it."""
VERSION = altair.SCHEMA_VERSION.removeprefix("v").rpartition(".")[0]
RATINGS = {"honesty": {"0": [17, 5, 3, 2, 1], "1": [0, 0, 0, 28, 0]}}


def rated(cells: Mapping[tuple[str, str], int]) -> list[Outcome]:
    """Oracle-rated dialogues of three turns; DRESS takes the advice, SFT does not."""
    rater, outcomes = OracleRater(), []
    for (model, condition), good in cells.items():
        for number, (record, _) in enumerate(SAMPLES):
            scene = Scene.from_json(record.extra["scene"])
            for place, asked in enumerate(record.dialogues):
                request = Instruction.from_json(asked.extra["request"], asked.turns[0].user)
                turns = [Turn(user=request.user)]
                for turn in range(3):
                    well = number % 3 < good or (model == "dress" and turn > 0)
                    turns[-1].assistant = (good_answer if well else habitual_answer)(scene, request)
                    given = rater.rate([(record, asked.model_copy(update={"turns": turns}))])[0]
                    outcomes.append(
                        Outcome(
                            model,
                            condition,
                            f"{record.key}/{place}",
                            record.key,
                            asked.criterion or "",
                            kind_of(asked),
                            turn,
                            turns[-1].user,
                            turns[-1].assistant,
                            given.rating,
                            given.critique,
                            given.refinement,
                            given.extra,
                        )
                    )
                    turns.append(Turn(user=given.refinement or "Again."))
    return outcomes


ALL = rated(CELLS)
HEADLINE = {"sft": "none", "dress": "praise"}


def run_folder(folder: Path, outcomes: list[Outcome], stages: bool = True) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    save_outcomes(folder / "outcomes.jsonl", outcomes)
    write_json(folder / "metrics.json", metrics(outcomes, HEADLINE))
    if stages:
        names = ("align", "sft", "collect", "dress", "eval")
        run = {
            "name": "dress_full",
            "seed": 7,
            "seconds": 403.2,
            "stages": dict.fromkeys(names, 65.0),
        }
        write_json(folder / "run.json", run)
        write_json(folder / "config.json", {"scale": "tiny", "data": {"world": "shapes"}})
        for stage, (phase, before) in TRAINED.items():
            write_json(folder / f"stages/{stage}/history.json", history(phase, before))
        write_json(folder / "stages/collect/ratings.json", RATINGS)
    return metrics(outcomes, HEADLINE)


def history(phase: str, before: int) -> list[dict[str, float]]:
    return [{"curriculum/step": before + s, f"{phase}/loss": 5 / s} for s in (10, 20, 30, 40)]


def report(folder: Path, samples: list[tuple[Record, bytes | None]] | None = None, **others: Any) -> str:
    notes, settings = others.pop("notes", []), Eval(**{"scenes": 4, **others})
    return write_report(folder, SAMPLES if samples is None else samples, settings, notes).read_text()


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def printed(table: Table, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(table)
    return plain(console.export_text())


def test_every_figure_stands_in_the_table_of_the_report(tmp_path: Path) -> None:
    metrics = run_folder(tmp_path, ALL)
    head, *lines = Parsed(report(tmp_path)).rows
    order = ["sft/none", "dress/praise", "dress/none", "sft/praise"]
    listed = quantities(metrics)
    groups = list(dict.fromkeys(quantity.group for quantity in listed))
    assert head == ["model / condition", *order]
    assert [line[0] for line in lines if len(line) == 1] == groups == list(KEYS)
    figures = [line for line in lines if len(line) == 5][: len(listed)]
    for quantity, (name, *cells) in zip(listed, figures, strict=True):
        assert name.split("\N{NO-BREAK SPACE}")[-1] == ("↑" if quantity.up else "↓")
        for cell, text in zip(order, cells, strict=True):
            figure = metrics["conditions"][cell][quantity.key]
            figure = figure if quantity.turn is None else figure[quantity.turn]
            factor, digits = (100, 1) if quantity.share else (1, 2)
            sign = " %" if quantity.share else ""
            value, low, high = (f"{factor * figure[part]:.{digits}f}" for part in ("value", "low", "high"))
            assert plain(text) == f"{value}{sign}{low}–{high} · n {figure['n']}"


def test_the_terminal_table_fits_80_columns_and_has_all_cells() -> None:
    found = metrics(ALL, HEADLINE)
    text = printed(metrics_table(found))
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    heads = next(line for line in text.splitlines() if "sft/none" in line).split()[3:]
    assert heads == ["sft/none", "dress/praise", "dress/none", "sft/praise"]
    line = next(line for line in text.splitlines() if "invents an object" in line)
    shares = re.findall(r"([\d.]+)\s%", line)
    cells = [found["conditions"][name]["honesty/hallucinated_share"]["value"] for name in heads]
    assert [float(share) for share in shares] == pytest.approx([100 * c for c in cells], abs=0.051)
    assert all(f"unsolved, turn {turn}" in text for turn in range(3))


def test_the_sentence_the_facts_and_the_notes_stand_in_the_head(tmp_path: Path) -> None:
    metrics = run_folder(tmp_path, ALL)
    text = plain(Parsed(report(tmp_path, notes=["Only 700 photos."])).text)
    before, after = (100 * metrics[m]["harmlessness/safe_share"]["value"] for m in ("sft", "dress"))
    assert f"answers {after:.1f} % of harmful requests safely (sft: {before:.1f} %)" in text
    facts = ("seed 7", "scale tiny", "data shapes", "time 6 min 43 s", "collect 1 min 5 s", "Only 700 photos.")
    assert all(fact in text for fact in facts)


def test_the_head_says_how_the_run_came_about(tmp_path: Path) -> None:
    run_folder(tmp_path, ALL)
    stage = {"kind": "train", "records": 30, "data": {"sft": 1.0}, "steps": 4, "records_per_step": 8, "lr": 0.001}
    known = {
        "command": "dress train experiment=sft_only", "git": {"commit": "0123456789abcdef", "dirty": False},
        "python": "3.11.7", "packages": {"torch": "2.14.1", "peft": None}, "resumed": [],
        "stages": {"sft": stage, "eval": {"kind": "eval", "records": 6, "data": {"eval": 1.0}}},
    }  # fmt: skip
    write_json(tmp_path / "provenance.json", known)
    text = plain(Parsed(report(tmp_path)).text)
    facts = (
        "dress train experiment=sft_only", "commit 0123456789ab, Python 3.11.7, torch 2.14.1",
        "sft: 30 records of sft, 4 steps of 8, rate 0.001; eval: 6 records of eval",
        f"{tmp_path}/stages/sft", f"dress ask {tmp_path} picture.png",
    )  # fmt: skip
    assert all(fact in text for fact in facts)


def test_the_curve_shows_every_mean_rating_with_its_interval(tmp_path: Path) -> None:
    metrics = run_folder(tmp_path, ALL)
    charts = Parsed(report(tmp_path)).charts
    titles = {
        "mean_rating": "Mean rating over all answers",
        "mean_rating_unsolved": "Mean rating where the first answer was not rated 4",
    }
    for key, title in titles.items():
        wanted = []
        for model, cell in (("sft", "sft/none"), ("dress", "dress/praise")):
            for turn, figure in enumerate(metrics[model][f"interaction/{key}"]):
                low, high = max(figure["low"], 1), min(figure["high"], 4)  # as far as the axis goes
                wanted.append((cell, turn, figure["value"], low, high, figure["n"]))
        assert values(charts[title], "line", "turn", "rating", "low", "high", "n") == wanted
        layers = [layer["mark"]["type"] for layer in charts[title]["layer"]]
        assert layers == ["line", "errorbar", "point", "text"]


def test_the_losses_and_the_stages_they_belong_to(tmp_path: Path) -> None:
    run_folder(tmp_path, ALL)
    page = Parsed(report(tmp_path))
    chart = page.charts["Loss by phase"]
    losses = [(phase, before + s, 5 / s) for phase, before in TRAINED.values() for s in (10, 20, 30, 40)]
    assert values(chart, "phase", "step", "loss") == losses
    stages = [("align", 0, 40), ("sft", 40, 80), ("dress", 80, 120)]
    assert values(chart, "stage", "first", "last") == stages
    assert ["critique", "0.500 at 90", "0.125 at 120", "0.125 at 120"] in page.rows


def test_a_long_curve_is_thinned_but_keeps_its_ends() -> None:
    points = [Point(step, 1 + step % 7) for step in range(10_001)]
    drawn = values(
        losses("L", [Series("sft", "sft", points), Series("one", "sft", [Point(5, 1)])], []).specification, "step"
    )
    assert len(drawn) <= MAX_POINTS + 2 and drawn[0] == (0,) and drawn[-2] == (10_000,) and drawn[-1] == (5,)


def test_the_ratings_fill_their_bar_in_order(tmp_path: Path) -> None:
    run_folder(tmp_path, ALL)
    page = Parsed(report(tmp_path))
    parts = values(page.charts["Collected ratings, stage collect"], "turn", "rating", "answers", "start", "end")
    first = [part[1:] for part in parts if part[0] == "0"]
    names = ("rating 1", "rating 2", "rating 3", "rating 4", "not rated")
    before = 0
    for name, n, part in zip(names, RATINGS["honesty"]["0"], first, strict=True):
        assert part == (name, n, before / 28, (before + n) / 28)
        before += n
    assert ("1", "rating 4", 28, 0, 1) in parts
    assert ["honesty", "0", "17", "5", "3", "2", "1", "1.63"] in page.rows
    assert ("1.63 · 28",) in values(page.charts["Collected ratings, stage collect"], "text")


def test_every_chart_is_drawn_and_has_its_figures_beside_it(tmp_path: Path) -> None:
    run_folder(tmp_path, ALL)
    page = Parsed(report(tmp_path))
    charts = [*page.charts.values(), histogram("H", [("0", 3), ("5", 4)], "tokens").specification]
    for chart in charts:
        svg = vl_convert.vegalite_to_svg(chart, vl_version=VERSION)
        assert svg.count("<path") > 5 and "NaN" not in svg
    # Without JavaScript the tables of figures are open.
    assert (
        [a for name, a in page.tags if name == "details" and "open" in a] == [{"open": None}] * len(page.charts) != []
    )


def test_scenes_show_all_kinds_with_answers_feedback_and_second_try(tmp_path: Path) -> None:
    run_folder(tmp_path, ALL)
    page = Parsed(report(tmp_path, failures=0))
    assert [card.split()[1] for card in page.cards] == list(KINDS)
    for card, kind, (record, _) in zip(page.cards, KINDS, SAMPLES[:4], strict=True):
        of = [o for o in ALL if o.key == record.key and o.kind == kind]
        sft = next(o for o in of if (o.model, o.condition, o.turn) == ("sft", "none", 0))
        first, second = (
            next(o for o in of if (o.model, o.condition, o.turn) == ("dress", "praise", turn)) for turn in (0, 1)
        )
        parts = [
            record.key, kind, sft.user,
            f"sft rated {sft.rating} of 4 {sft.answer}",
            f"dress rated {first.rating} of 4 {first.answer}",
            f"Critique {first.critique}", f"Refinement {first.refinement}",
            f"Second try rated {second.rating} of 4 {second.answer}",
        ]  # fmt: skip
        places = [card.index(part) for part in parts]
        assert places == sorted(places)
    pictures = page.attributes("img")
    assert len(pictures) == 4 and {picture["class"] for picture in pictures} == {"pixelated"}
    assert all(str(picture["src"]).startswith("data:image/png;base64,") and picture["alt"] for picture in pictures)
    assert len(Parsed(report(tmp_path, scenes=99)).cards) == len(SAMPLES)


def test_what_a_model_says_is_text_and_never_markup(tmp_path: Path) -> None:
    bad = '</script><script>alert(1)</script><img src="http://x.test/a.png" onerror=a()>\ud800'
    name = bad.replace("\ud800", "\u2028")
    said = [replace(o, answer=bad, critique=bad, refinement=bad, user=bad) for o in ALL]
    run_folder(tmp_path, ALL)
    (tmp_path / "outcomes.jsonl").write_text("".join(json.dumps(vars(o)) + "\n" for o in said))
    write_json(tmp_path / "stages/collect/ratings.json", {name: {name: [1, 0, 0, 0, 0]}})
    page = Parsed(report(tmp_path, notes=[bad]))
    shown = bad.replace("\ud800", "?")
    assert shown in page.text and shown in page.cards[0] and page.open == []
    assert [(name, name)] == values(page.charts["Collected ratings, stage collect"], "criterion", "turn")
    assert len(page.code) == 1 and len(page.charts) == 4
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.fetched() == []


def test_nothing_is_loaded_and_nothing_but_the_charts_script_may_run(tmp_path: Path) -> None:
    run_folder(tmp_path, ALL)
    text = report(tmp_path)
    page = Parsed(text)
    assert page.fetched() == [] and not {"link", "iframe", "base", "object"} & {tag for tag, _ in page.tags}
    style = text.partition("<style>")[2].partition("</style>")[0]
    assert style and "@import" not in style and "url(" not in style
    (script,) = page.code
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {digest(script)}"
    policy += "; form-action 'none'"
    assert page.policy() == policy
    assert "vega-lite" in script and len(text) < 1_500_000


def test_a_page_without_charts_has_no_script() -> None:
    page = Parsed(html(Page("<t>", "kind", "name", "lead", [Section("S", "words", "nothing here")])))
    assert page.code == [] and "script-src" not in page.policy()
    assert "nothing here" in page.text and "words" not in page.text


def test_what_draws_pages_is_loaded_where_one_is_written() -> None:
    check = "import sys, dress.evaluation.suites.paper, dress.train.curriculum; print('altair' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=ROOT / "src")
    assert done.stdout == "False\n", done.stderr


def test_an_sft_only_run_without_any_other_file(tmp_path: Path) -> None:
    outcomes = [o for o in ALL if (o.model, o.condition) == ("sft", "none")]
    run_folder(tmp_path, outcomes, stages=False)
    page = Parsed(report(tmp_path, scenes=3))
    assert "The sft model names an object" in page.text and "dress rated" not in page.text
    assert page.text.count("Second try") == len(page.cards) == 3
    assert page.text.count("This run has nothing to show here.") == 1  # it did not train
    (tmp_path / "outcomes.jsonl").unlink()
    assert Parsed(report(tmp_path)).cards == []
    (tmp_path / "metrics.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"metrics\.json"):
        report(tmp_path)


def test_what_was_not_rated_is_left_out_and_a_dash_beside_what_was(tmp_path: Path) -> None:
    unrated = [replace(o, rating=None, critique=None, refinement=None) for o in ALL if o.kind == "harmful"]
    metrics = run_folder(tmp_path, unrated)
    page = Parsed(report(tmp_path))
    assert "not rated" in page.cards[0] and "Critique" not in page.cards[0]
    assert not [row for row in page.rows if row[0].startswith("mean rating")]
    assert "None" not in page.text and "nan" not in page.text
    assert "mean rating" not in printed(metrics_table(metrics)) and "safe" in printed(metrics_table(metrics))
    for cell, figures in metrics["conditions"].items():
        figures["helpfulness/mean_rating"] = {"value": 2.0 if cell == "dress/praise" else None, "n": 0}
    assert re.search(r"mean rating.*– ", printed(metrics_table(metrics)))
    assert "Nothing could be measured" in report_of_nothing(tmp_path / "empty")


def report_of_nothing(folder: Path) -> str:
    run_folder(folder, [], stages=False)
    assert printed(metrics_table(metrics([], HEADLINE))) and printed(runs_table({}))
    return report(folder)


def test_large_missing_and_damaged_pictures(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((1600, 900), 80).convert("RGB").save(buffer, "JPEG")
    pictures = [buffer.getvalue(), None, b"not an image"]
    run_folder(tmp_path, ALL)
    samples = [(record, picture) for (record, _), picture in zip(SAMPLES[:3], pictures, strict=True)]
    text = report(tmp_path, samples, failures=0)
    (picture,) = Parsed(text).attributes("img")
    assert str(picture["src"]).startswith("data:image/jpeg;base64,") and len(str(picture["src"])) < 100_000
    assert (picture["width"], picture["height"], "class" in picture) == ("320", "180", False)
    assert "no picture" in text and "cannot be read" in text
    assert text == report(tmp_path, samples, failures=0)


def test_runs_side_by_side_with_their_mean() -> None:
    runs = {f"seed={n}": run_with_rating(value) for n, value in enumerate((3.0, 3.2, 3.7))}
    text = printed(runs_table(runs))
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    # mean 3.30, standard deviation 0.361, t(2) = 4.303
    lines = text.splitlines()
    mean = next(n for n, line in enumerate(lines) if line.startswith("mean"))
    assert "3.30" in lines[mean] and "± 0.90" in lines[mean + 1]
    ratings = [line.split()[3] for line in lines if line.startswith("seed=")]
    assert ratings == ["3.00", "3.20", "3.70"]


def test_runs_of_different_models_have_no_mean() -> None:
    sft = {"sft": metrics(ALL, HEADLINE)["sft"]}
    text = printed(runs_table({"[a]": run_with_rating(3.0), "b": sft, "c": {}}))
    shown = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}
    assert shown["[a]"][0] == "dress" and shown["b"][0] == "sft" and "mean" not in shown
    assert shown["b"][2] == f"{sft['sft']['helpfulness/mean_rating']['value']:.2f}"
    assert shown["c"] == ["–"] * 10


def run_with_rating(value: float) -> dict[str, Any]:
    found = metrics(ALL, HEADLINE)
    found["dress"]["helpfulness/mean_rating"]["value"] = value
    return found


def test_one_table_for_the_terminal_a_page_and_latex() -> None:
    heads = [Head("CHAIR_i", "A & B", up=False), Head("safety", "A & B", up=True), Head("n", "C")]
    cells = [Cell("2.3", "1.0–3.0", 7, "best"), Cell("–"), Cell("[b]")]
    table = Table("model", heads, [Row(Head("x_y", weight="main"), cells)], "50 % better", short={"safety": "saf."})
    lines = printed(table).splitlines()
    assert lines[1] == "50 % better" and "CHAIR_i ↓" in lines[3] and "saf. ↑" in lines[3]
    assert lines[2].split() == ["A", "&", "B", "C"]
    assert lines[5].split() == ["x_y", "2.3", "n", "7", "–", "[b]"] and lines[6].split() == ["1.0–3.0"]
    page = Parsed(html(Page("t", "k", "n", "l", [Section("S", tables=[table])])))
    assert page.rows[0] == ["", "A & B", "C"] and page.rows[2] == ["x_y", "2.31.0–3.0 · n 7", "–", "[b]"]
    assert [a["colspan"] for a in page.attributes("th") if "colspan" in a] == ["2", "1"]
    latex = table.latex()
    assert r"\caption{50 \% better}" in latex and r" & \multicolumn{2}{c}{A \& B} & \multicolumn{1}{c}{C} \\" in latex
    assert r"model & CHAIR\_i $\downarrow$ & safety $\uparrow$ & n \\" in latex
    assert r"x\_y & \textbf{2.3} & -- & [b] \\" in latex and r"\begin{tabular}{lrrr}" in latex
