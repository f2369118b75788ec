"""The report and the tables say what the metrics say, whatever the answers hold."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console
from rich.table import Table

from dress.base.files import write_json
from dress.evaluation.metrics import metrics
from dress.evaluation.outcomes import KINDS, Outcome, kind_of, save_outcomes
from dress.evaluation.report import write_report
from dress.record import Record, Turn
from dress.report.tables import metrics_table, rows, runs_table, t975
from dress.worlds.shapes import generate
from dress.worlds.shapes.instructions import Instruction, good_answer, habitual_answer
from dress.worlds.shapes.rater import OracleRater
from dress.worlds.shapes.scene import Scene

SAMPLES = list(generate.samples("eval", 8, seed=0))
# How many of three scenes are answered well at the first turn.
CELLS = {("dress", "none"): 1, ("dress", "praise"): 2, ("sft", "none"): 0, ("sft", "praise"): 0}
RATINGS = {"honesty": {"0": [17, 5, 3, 2, 1], "1": [0, 0, 0, 28, 0]}}


def held(cells: Mapping[tuple[str, str], int]) -> list[Outcome]:
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


ALL = held(CELLS)


def run_folder(folder: Path, outcomes: list[Outcome], stages: bool = True) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    save_outcomes(folder / "outcomes.jsonl", outcomes)
    write_json(folder / "metrics.json", metrics(outcomes))
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
        write_json(folder / "stages/align/history.json", history("align", 0))
        write_json(folder / "stages/sft/history.json", history("sft", 40))
        write_json(folder / "stages/dress/history.json", history("critique", 80))
        write_json(folder / "stages/collect/ratings.json", RATINGS)
    return metrics(outcomes)


def history(phase: str, before: int) -> list[dict[str, float]]:
    return [{"curriculum/step": before + s, f"{phase}/loss": 5 / s} for s in (10, 20, 30, 40)]


def report(folder: Path, samples: list[tuple[Record, bytes | None]] | None = None, **given: Any) -> str:
    arguments = {"scenes": 4, "notes": [], **given}
    return write_report(folder, SAMPLES if samples is None else samples, **arguments).read_text()


def plain(html: str) -> str:
    """Text without tags, words separated by single blanks."""
    return " ".join(re.sub(r"<[^>]+>", " ", html.split("</style>")[1]).split())


def printed(table: Table, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(table)
    return console.export_text()


def test_every_figure_stands_in_the_table_of_the_report(tmp_path: Path) -> None:
    found = run_folder(tmp_path, ALL)
    body = re.search(r"<tbody>(.*)</tbody>", report(tmp_path), re.S)
    assert body
    lines = [line for line in body[1].split("<tr>")[1:]]
    order = ["sft/none", "dress/praise", "dress/none", "sft/praise"]
    assert len(lines) == len(rows(found)) == 14
    for row, line in zip(rows(found), lines, strict=True):
        for cell, shown in zip(order, line.split("<td")[1:], strict=True):
            figure = found["conditions"][cell][row.key]
            figure = figure if row.turn is None else figure[row.turn]
            factor = 100 if row.share else 1
            digits = r"([\d.]+)"
            said = re.search(rf">{digits}.*<small>\s*{digits}–{digits}.*n (\d+)", shown, re.S)
            assert said, shown
            value, low, high, n = (float(part) for part in said.groups())
            for got, wanted in ((value, "value"), (low, "low"), (high, "high")):
                assert got == pytest.approx(figure[wanted] * factor, abs=0.051 if row.share else 0.0051)
            assert n == figure["n"]


def test_the_terminal_table_fits_80_columns_and_has_all_cells() -> None:
    found = metrics(ALL)
    text = printed(metrics_table(found))
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    heads = next(line for line in text.splitlines() if "sft/none" in line).split()
    assert heads == ["sft/none", "dress/praise", "dress/none", "sft/praise"]
    line = next(line for line in text.splitlines() if "invents an object" in line)
    shares = re.findall(r"([\d.]+)\s%", line)
    cells = [found["conditions"][name]["honesty/hallucinated_share"]["value"] for name in heads]
    assert [float(share) for share in shares] == pytest.approx([100 * c for c in cells], abs=0.051)
    assert all(f"unsolved, turn {turn}" in text for turn in range(3))


def test_the_sentence_the_facts_and_the_notes_stand_in_the_head(tmp_path: Path) -> None:
    found = run_folder(tmp_path, ALL)
    text = plain(report(tmp_path, notes=["Only 700 photos."])).replace("\N{NO-BREAK SPACE}", " ")
    before, after = (100 * found[m]["harmlessness/safe_share"]["value"] for m in ("sft", "dress"))
    assert f"answers {after:.1f} % of harmful requests safely (SFT: {before:.1f} %)" in text
    for fact in (
        "seed 7",
        "scale tiny",
        "data shapes",
        "time 6 min 43 s",
        "collect 1 min 5 s",
        "700 photos",
    ):
        assert fact in text, fact


def test_charts_show_the_curve_the_losses_and_the_ratings(tmp_path: Path) -> None:
    found = run_folder(tmp_path, ALL)
    html = report(tmp_path)
    for model, cell in (("sft", "sft/none"), ("dress", "dress/praise")):
        for key in ("mean_rating", "mean_rating_unsolved"):
            for turn, f in enumerate(found[model][f"interaction/{key}"]):
                low, high = max(f["low"], 1), min(f["high"], 4)  # as far as the axis goes
                said = f"{cell}, turn {turn}: {f['value']:.2f} [{low:.2f}, {high:.2f}]"
                assert f"<title>{said}, n = {f['n']}</title>" in html
    labels = re.findall(r'class="stage"[^>]*>(\w+)<', html)
    assert labels == ["align", "sft", "dress"]
    assert "critique: 0.50 at 90 to 0.12 at 120" in html
    names = ("rating 1", "rating 2", "rating 3", "rating 4", "not rated")
    for name, n in zip(names, RATINGS["honesty"]["0"], strict=True):
        assert f"<title>{name}: {n} of 28</title>" in html
    bars = re.findall(r'<rect x="([\d.]+)" y="37" width="([\d.]+)"', html)
    starts, widths = ([float(bar[side]) for bar in bars] for side in (0, 1))
    shares = [n / 28 for n in RATINGS["honesty"]["0"]]
    assert [w / sum(widths) for w in widths] == pytest.approx(shares, abs=0.02)
    for start, width, after in zip(starts, widths, starts[1:], strict=False):
        assert after == pytest.approx(start + width + 1, abs=0.21)  # side by side, a gap of 1


def test_scenes_show_all_kinds_with_answers_feedback_and_second_try(tmp_path: Path) -> None:
    run_folder(tmp_path, ALL)
    html = report(tmp_path)
    cards = re.findall(r"<article>.*?</article>", html, re.S)
    assert [re.search(r'class="kind">(\w+)', card)[1] for card in cards] == list(KINDS)  # type: ignore[index]
    for card, kind, (record, _) in zip(cards, KINDS, SAMPLES[:4], strict=True):
        of = [o for o in ALL if o.key == record.key and o.kind == kind]
        sft = next(o for o in of if (o.model, o.condition, o.turn) == ("sft", "none", 0))
        first, second = (
            next(o for o in of if (o.model, o.condition, o.turn) == ("dress", "praise", turn)) for turn in (0, 1)
        )
        wanted = [
            sft.user,
            f"SFT rated {sft.rating} of 4 {sft.answer}",
            f"DRESS rated {first.rating} of 4 {first.answer}",
            f"Critique {first.critique}", f"Refinement {first.refinement}",
            f"Second try rated {second.rating} of 4 {second.answer}",
        ]  # fmt: skip
        text = plain(f"</style>{card}")
        assert all(escape(part) in text for part in wanted), text
        assert 'class=pixelated src="data:image/png;base64,' in card
    assert len(re.findall("<article>", report(tmp_path, scenes=99))) == len(SAMPLES)


def test_what_a_model_says_is_text_and_never_markup(tmp_path: Path) -> None:
    bad = '<script>alert(1)</script><img src="http://x.test/a.png" onerror=a()>\ud800'
    said = [replace(o, answer=bad, critique=bad, refinement=bad, user=bad) for o in ALL]
    run_folder(tmp_path, ALL)
    (tmp_path / "outcomes.jsonl").write_text("".join(json.dumps(vars(o)) + "\n" for o in said))
    write_json(tmp_path / "stages/collect/ratings.json", {"<script>": {"<b>": [1, 0, 0, 0, 0]}})
    html = report(tmp_path, notes=["<script>"])
    assert "<script" not in html and "<b>:" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    run_folder(tmp_path, ALL)
    html = report(tmp_path)
    assert "://" not in html and "@import" not in html and "url(" not in html
    assert all(source.startswith("data:image/") for source in re.findall(r'(?:src|href)="([^"]*)', html))
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in html


def test_an_sft_only_run_without_any_other_file(tmp_path: Path) -> None:
    outcomes = [o for o in ALL if (o.model, o.condition) == ("sft", "none")]
    run_folder(tmp_path, outcomes, stages=False)
    html = report(tmp_path, scenes=3)
    assert "The SFT model names an object" in html and "DRESS <span" not in html
    assert html.count("Second try") == html.count("<article>") == 3
    (tmp_path / "outcomes.jsonl").unlink()
    assert "<article>" not in report(tmp_path)
    (tmp_path / "metrics.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"metrics\.json"):
        report(tmp_path)


def test_what_was_not_rated_is_a_dash(tmp_path: Path) -> None:
    unrated = [replace(o, rating=None, critique=None, refinement=None) for o in ALL if o.kind == "harmful"]
    found = run_folder(tmp_path, unrated)
    html = report(tmp_path)
    assert "not rated</span>" in html and "<h4>Critique" not in html
    assert re.search(r"mean rating&nbsp;.*?<td class=\"base\">–<small>&nbsp;.*?n 0", html, re.S)
    assert "None" not in plain(html) and "nan" not in plain(html)
    assert re.search(r"mean rating +– +– +– +–", printed(metrics_table(found)))
    assert "Nothing could be measured" in report_of_nothing(tmp_path / "empty")


def report_of_nothing(folder: Path) -> str:
    run_folder(folder, [], stages=False)
    assert printed(metrics_table(metrics([]))) and printed(runs_table({}))
    return report(folder)


def test_large_missing_and_damaged_pictures(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((1600, 900), 80).convert("RGB").save(buffer, "JPEG")
    pictures = [buffer.getvalue(), None, b"not an image"]
    run_folder(tmp_path, ALL)
    samples = [(record, picture) for (record, _), picture in zip(SAMPLES[:3], pictures, strict=True)]
    html = report(tmp_path, samples)
    assert re.findall(r'<img src="data:image/jpeg[^>]* width="(\d+)" height="(\d+)"', html) == [("320", "180")]
    assert "no picture" in html and "cannot be read" in html and len(html) < 150_000
    assert html == report(tmp_path, samples)


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
    sft = {"sft": metrics(ALL)["sft"]}
    text = printed(runs_table({"[a]": run_with_rating(3.0), "b": sft, "c": {}}))
    shown = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}
    assert shown["[a]"][0] == "dress" and shown["b"][0] == "sft" and "mean" not in shown
    assert shown["b"][2] == f"{sft['sft']['helpfulness/mean_rating']['value']:.2f}"
    assert shown["c"] == ["–"] * 10


def run_with_rating(value: float) -> dict[str, Any]:
    found = metrics(ALL)
    found["dress"]["helpfulness/mean_rating"]["value"] = value
    return found


def test_students_t_beyond_its_table() -> None:
    assert t975(1) == 12.706
    assert t975(30) == pytest.approx(2.042, abs=1e-3) and t975(14) == pytest.approx(2.145, abs=2e-3)
