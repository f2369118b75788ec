"""The table over a sweep's runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from dress.base.files import read_json, write_json
from dress.base.run_folder import short
from dress.base.terminal import Terminal, visible


class SweepTable(Callback):
    """Hydra callback: after `-m` one table over the runs, and `runs.json` in the sweep's folder."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir).absolute()
        runs = sweep_runs(folder)
        if not runs:
            return
        from dress.report.figures import runs_table

        write_json(folder / "runs.json", runs)
        table = runs_table({label: run["metrics"] for label, run in runs.items()}, seed_groups(runs))
        Terminal().print(table)
        print(visible(f"runs: {short(folder / 'runs.json')}"))


def sweep_runs(folder: Path) -> dict[str, dict[str, Any]]:
    """Finished jobs of a sweep, by what tells them apart (`seed=1`).

    Returns:
        For each: `run_dir`, `overrides`, `metrics`.
    """
    jobs = [file.parent for file in folder.glob("*/metrics.json")]
    jobs.sort(key=lambda job: (len(job.name), job.name))  # 2 before 10
    typed = {job: yaml.safe_load((job / ".hydra" / "overrides.yaml").read_text(encoding="utf-8")) or [] for job in jobs}
    common = set.intersection(*map(set, typed.values())) if len(jobs) > 1 else set()
    names = _short_names({text.lstrip("+").partition("=")[0] for texts in typed.values() for text in texts})
    return {
        _label([text for text in typed[job] if text not in common], names) or job.name: {
            "run_dir": str(job),
            "overrides": typed[job],
            "metrics": read_json(job / "metrics.json"),
        }
        for job in jobs
    }


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
    parts = (text.lstrip("+").partition("=") for text in texts)
    return " ".join(f"{names[key]}={value}" for key, _, value in parts)


def _short_names(keys: Collection[str]) -> dict[str, str]:
    """Each key to its last words, as few as tell it from all others: `lr` for `curriculum.stages.sft.lr`."""
    short = {}
    for key in keys:
        words = key.split(".")
        ends = (".".join(words[-number:]) for number in range(1, len(words) + 1))
        short[key] = next((end for end in ends if sum(f".{one}".endswith(f".{end}") for one in keys) == 1), key)
    return short
