"""The table over a sweep's runs."""

from __future__ import annotations

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
        Terminal().print(runs_table({label: run["metrics"] for label, run in runs.items()}))
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
    return {
        " ".join(text.lstrip("+") for text in typed[job] if text not in common) or job.name: {
            "run_dir": str(job),
            "overrides": typed[job],
            "metrics": read_json(job / "metrics.json"),
        }
        for job in jobs
    }
