"""What a sweep ends with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from dress.base.files import write_json
from dress.base.run_folder import short
from dress.base.terminal import Terminal, visible
from dress.run.sweep_runs import drawn_runs, sweep_runs


class SweepTable(Callback):
    """Hydra callback: after `-m` one table over the runs; in the sweep's folder `runs.json`, a page and a picture."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir).absolute()
        runs = sweep_runs(folder)
        if not runs:
            return
        from dress.run.sweep_page import write_sweep  # late: charts are needed at the end only

        write_json(folder / "runs.json", runs)
        table, files = write_sweep(folder, runs, drawn_runs(folder))
        Terminal().print(table)
        files = {"runs": folder / "runs.json"} | files
        width = max(map(len, files))
        print(visible("\n".join(f"{what + ':':<{width + 1}} {short(file)}" for what, file in files.items())))
