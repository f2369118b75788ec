"""The runs of a sweep, from what lies in its folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dress.base.files import read_json
from dress.run.search import COMPLETE, FAILED, RECORD


@dataclass(frozen=True)
class DrawnRun:
    """A run of a sweep, also one that ended without figures.

    Attributes:
        label: as in `sweep_runs`.
        folder: of the run.
        values: what it was given and others were not: dotted key to value.
        failed: it ended without figures.
    """

    label: str
    folder: Path
    values: Mapping[str, str | float]
    failed: bool


def sweep_runs(folder: Path) -> dict[str, dict[str, Any]]:
    """Finished runs of a sweep, by what tells them apart: of a search the trial's number, else settings (`seed=1`).

    Returns:
        For each: `run_dir`, `overrides`, `metrics`.
    """
    return {
        run.label: {
            "run_dir": str(run.folder),
            "overrides": _typed(run.folder),
            "metrics": read_json(run.folder / "metrics.json"),
        }
        for run in drawn_runs(folder)
        if not run.failed
    }


def drawn_runs(folder: Path) -> list[DrawnRun]:
    """The runs of a sweep that have ended, in order."""
    if (folder / RECORD).exists():
        trials = read_json(folder / RECORD, dict)["trials"]
        ended = [trial for trial in trials if trial["state"] in (COMPLETE, FAILED)]
        places = [(trial, folder / str(trial["number"])) for trial in ended]
        return [DrawnRun(place.name, place, one["params"], one["state"] == FAILED) for one, place in places]
    jobs = [file.parents[1] for file in folder.glob("*/.hydra/overrides.yaml")]
    jobs.sort(key=lambda job: (len(job.name), job.name))  # 2 before 10
    done = [job for job in jobs if (job / "metrics.json").exists()]
    typed = {job: _typed(job) for job in jobs}
    common = set.intersection(*(set(typed[job]) for job in done)) if len(done) > 1 else set()
    varied = {job: [text.lstrip("+") for text in typed[job] if text not in common] for job in jobs}
    names = short_names({text.partition("=")[0] for texts in varied.values() for text in texts})
    runs: dict[str, DrawnRun] = {}
    for job in jobs:
        label = _label(varied[job], names) or job.name
        if label in runs:
            label = f"{label} ({job.name})"
        values = {key: value for key, _, value in (text.partition("=") for text in varied[job])}
        runs[label] = DrawnRun(label, job, values, job not in done)
    return list(runs.values())


def _typed(job: Path) -> list[str]:
    """The overrides of a job of Hydra's."""
    return yaml.safe_load((job / ".hydra" / "overrides.yaml").read_text(encoding="utf-8")) or []


def seed_groups(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Labels of runs that differ in nothing but their seed, by what the runs of a group have in common.

    Args:
        runs: as `sweep_runs` gives them.
    """
    groups: dict[frozenset[str], list[str]] = defaultdict(list)
    for label, run in runs.items():
        groups[frozenset(text for text in run["overrides"] if not text.startswith("seed="))].append(label)
    names = [" ".join(word for word in labels[0].split() if not word.startswith("seed=")) for labels in groups.values()]
    if len(groups) == 1 or len(set(names)) < len(names):
        names = ["" if len(groups) == 1 else str(number) for number in range(len(groups))]
    return dict(zip(names, groups.values(), strict=True))


def _label(texts: Sequence[str], names: Mapping[str, str]) -> str:
    """What tells a run apart, in few letters."""
    parts = (text.partition("=") for text in texts)
    return " ".join(f"{names[key]}={value}" for key, _, value in parts)


def short_names(keys: Collection[str]) -> dict[str, str]:
    """Each key to its last words, as few as tell it from all others: `lr` for `curriculum.stages.sft.lr`."""
    short = {}
    for key in keys:
        words = key.split(".")
        ends = (".".join(words[-number:]) for number in range(1, len(words) + 1))
        short[key] = next((end for end in ends if sum(f".{one}".endswith(f".{end}") for one in keys) == 1), key)
    return short
