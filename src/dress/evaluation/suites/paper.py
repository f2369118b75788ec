"""The paper's three tables with a row of one's own beside the published ones, and interaction below."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from dress.base.files import read_json, write_json, write_text
from dress.evaluation import paper_pages, published
from dress.evaluation.output import FIGURES, OUTCOMES, RUN, recompute, say, suite_of
from dress.evaluation.published import COLUMNS
from dress.evaluation.settings import SuiteSettings
from dress.evaluation.suite import suite

Figures = Mapping[str, Any]


class Paper(SuiteSettings):
    """The paper's three tables with a row of one's own, from outputs of other suites."""

    name: str = "ours"  # of the row
    llava_eval: str | None = None  # an output of suite=llava_eval on LLaVA-Eval's 90 questions
    llava_bench: str | None = None  # the same on LLaVA-Bench's 60
    captioning: str | None = None  # of suite=captioning
    short_caption: str | None = None  # of suite=chair on captions to Instruction-1, instead of captioning
    brief_description: str | None = None  # and to Instruction-2
    vlsafe: str | None = None  # of suite=vlsafe
    interaction: str | None = None  # of suite=interaction: own row only
    tables: str | None = None  # published tables of the same form; null = those of the paper


INPUTS = {
    "llava_eval": "llava_eval",
    "llava_bench": "llava_eval",
    "captioning": "captioning",
    "short_caption": "chair",
    "brief_description": "chair",
    "vlsafe": "vlsafe",
    "interaction": "interaction",
}
"""Setting to the suite whose output it names."""


def compute(out: Path) -> dict[str, Any]:
    """What `suite.json` must hold, from the outcomes in `out/inputs` and the settings in `out/run.json`.

    Returns:
        `tables` (criterion → model → column → figure), `headline` (model → criterion → per cent),
        `inputs` (setting → suite, n, failures, judge, prompt_hash, responder, runs), `n`, `failures`.
    """
    details = read_json(out / RUN)
    settings, tables = details["settings"], details["tables"]
    name = settings["name"]
    figures = {setting: recompute(out / "inputs" / setting) for setting in INPUTS if settings[setting] is not None}
    rows: dict[str, dict[str, Any]] = {criterion: {**table} for criterion, table in tables.items()}
    columns = {criterion: [[c.group, c.name, c.up] for c in listed] for criterion, listed in COLUMNS.items()}
    for criterion in COLUMNS:
        own = _own(criterion, figures)
        if own:
            rows[criterion][name] = own
    if "interaction" in figures:
        result = figures["interaction"]
        measured = [key for key in result["counted"] if result[key] is not None]
        columns["interaction"] = [["Interaction", key, _more_is_better(key)] for key in measured]
        rows["interaction"] = {name: {f"Interaction/{key}": result[key] for key in measured}}
    headlines = {model: published.headline(model, rows) for model in ("DRESS", name)}
    facts = ("suite", "n", "failures", "judge", "prompt_hash", "responder", "runs")
    inputs = {setting: {key: result[key] for key in facts} for setting, result in figures.items()}
    return {
        "suite": "paper", "name": name, "tables": rows, "columns": columns,
        "headline": {m: h for m, h in headlines.items() if any(v is not None for v in h.values())},
        "n": sum(result["n"] for result in inputs.values()),
        "failures": sum(result["failures"] for result in inputs.values()),
        "inputs": inputs, "notes": _notes(name, headlines, inputs),
    }  # fmt: skip


@suite("paper", Paper, compute=compute)
def paper(settings: Paper, console: Console) -> dict[str, Any]:
    """Write and print the tables; `suite.json` holds what they show.

    Raises:
        FileNotFoundError, ValueError: a folder that holds no output of the suite it stands for, or a
            damaged file of tables.
    """
    out = Path(settings.out)
    for name in INPUTS:
        if (folder := getattr(settings, name)) is not None:
            _copy(name, Path(folder), out / "inputs" / name)
    write_json(out / RUN, {"settings": settings.model_dump(), "tables": _tables(settings.tables)})
    result = compute(out)
    write_json(out / FIGURES, result)
    write_text(out / "paper.html", paper_pages.html_page(result))
    write_text(out / "paper.tex", paper_pages.latex_tables(result))
    for table in paper_pages.tables(result):
        console.print(table)
    for line in result["notes"]:
        say(line, console)
    say(f"tables: {out / 'paper.html'}, {out / 'paper.tex'}; figures: {out / FIGURES}", console)
    return result


def _copy(setting: str, folder: Path, copy: Path) -> None:
    """Copy the outcomes, so that the tables can be made again when the folder is gone."""
    name = suite_of(folder).name
    if name != INPUTS[setting]:
        raise ValueError(f"{setting}={folder}: expected an output of suite={INPUTS[setting]}, got one of {name}")
    copy.mkdir(parents=True, exist_ok=True)
    for file in (OUTCOMES, FIGURES):
        if (folder / file).resolve() != (copy / file).resolve():
            shutil.copyfile(folder / file, copy / file)


def _tables(path: str | None) -> Mapping[str, published.Scores]:
    """The published tables, or those of a file of the same form."""
    if path is None:
        return published.tables()
    content = read_json(Path(path))
    wanted = {criterion: {column.key for column in columns} for criterion, columns in COLUMNS.items()}
    for criterion, keys in wanted.items():
        rows = content.get(criterion) if isinstance(content, dict) else None
        if not isinstance(rows, dict) or any(not isinstance(row, dict) or keys - row.keys() for row in rows.values()):
            raise ValueError(f"tables={path}: expected {criterion}: {{model: {{{', '.join(sorted(keys))}}}}}")
    return {criterion: content[criterion] for criterion in wanted}


def _own(criterion: str, figures: Mapping[str, Figures]) -> dict[str, float | None]:
    """The own row of a table; a column whose suite was not given is None, a row without any is empty."""
    own = {column.key: _OWN[criterion](column, figures) for column in COLUMNS[criterion]}
    return own if any(value is not None for value in own.values()) else {}


def _helpfulness(column: published.Column, figures: Mapping[str, Figures]) -> float | None:
    if column.group == "LLaVA-Bench":
        return _times(10, figures.get("llava_bench", {}).get(column.name))
    cells = figures.get("llava_eval", {}).get("by_category", {})
    if column.name != "average":
        return cells.get(column.name, {}).get("score")
    three = [cells.get(c.name, {}).get("score") for c in COLUMNS["helpfulness"][:3]]
    return None if None in three else sum(three) / 3


def _honesty(column: published.Column, figures: Mapping[str, Figures]) -> float | None:
    place, category = {
        "Instruction-1": ("short_caption", "short caption"),
        "Instruction-2": ("brief_description", "brief description"),
    }[column.group]
    result = figures.get(place) or figures.get("captioning", {}).get("by_category", {}).get(category, {})
    return _times(100, result.get(column.name.lower()))


def _harmlessness(column: published.Column, figures: Mapping[str, Figures]) -> float | None:
    return _times(100, figures.get("vlsafe", {}).get(column.name))


_OWN: dict[str, Callable[[published.Column, Mapping[str, Figures]], float | None]] = {
    "helpfulness": _helpfulness, "honesty": _honesty, "harmlessness": _harmlessness
}  # fmt: skip


def _times(factor: float, value: float | None) -> float | None:
    return None if value is None else factor * value


def _more_is_better(key: str) -> bool:
    return not any(part in key for part in ("regressed", "nll"))


def _notes(
    name: str, headlines: Mapping[str, Mapping[str, float | None]], inputs: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """What must be known beside the figures: who judged one's own row, over how many samples."""
    notes = ["All rows but one's own: published by DRESS (CVPR 2024), judged by GPT-4. CHAIR: less is better."]
    for setting, result in inputs.items():
        prompt = f" ({result['prompt_hash']})" if result["prompt_hash"] else ""
        judge = f"judge {result['judge'] or 'unknown'}{prompt}"
        runs = f", {result['runs']} runs" if result["runs"] > 1 else ""
        notes.append(f"{name}, {setting}: {judge}, n {result['n']:,}, failures {result['failures']:,}{runs}")
    for model, result in headlines.items():
        for criterion, words in _HEADLINES.items():
            if result[criterion] is not None:
                notes.append(f"{model}: {words} {result[criterion]:.2f} %")
    return notes


_HEADLINES = {
    "harmlessness": "safety and persuasiveness over miniGPT4, mean relative gain",
    "honesty": "CHAIR against InstructBLIP, mean relative reduction of the four figures",
}
