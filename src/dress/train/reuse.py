"""Taking over what another run has finished, as far as it was made from the same things."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from rich.console import Console

from dress.base.files import read_json, write_json
from dress.base.ranks import rank, wait_for
from dress.base.run_folder import DONE, read_marker
from dress.train.eval_stage import cells
from dress.train.tasks import EvalTask, fingerprint

CELLS = "cells.json"
"""Label to the fingerprint of all that a model's answers depend on, beside these answers."""


class Reuse:
    """Another run's stages.

    Args:
        run: its folder; None takes over nothing.
        console: says what is taken over.

    Raises:
        ValueError: no run there.
    """

    def __init__(self, run: str | None, console: Console) -> None:
        self.run, self.console = run, console
        if run is not None and not (Path(run) / "stages").is_dir():
            raise ValueError(f"reuse={run}: expected a run folder with stages/, found none")

    def stage(self, name: str, expected: str, folder: Path) -> None:
        """Take a finished stage over if it was made from the same things.

        Args:
            name: of the stage, the same in both runs.
            expected: its fingerprint.
            folder: where it goes.
        """
        if self.run is None or (folder / DONE).exists():
            return
        source = Path(self.run) / "stages" / name
        if not (source / DONE).exists():
            return
        if (marker := read_marker(source / DONE))["fingerprint"] != expected:
            if rank() == 0:
                self.console.print(
                    f"stage {name}: made anew, for {self.run} made it with other settings or data", highlight=False
                )
            return
        if rank() == 0:
            shutil.copytree(source, folder, dirs_exist_ok=True, copy_function=link, ignore=shutil.ignore_patterns(DONE))
            write_json(folder / DONE, marker)  # last: what is marked is whole
            self.console.print(f"stage {name}: taken over from {self.run}", highlight=False)
        wait_for(folder / DONE)

    def cells(self, task: EvalTask, folder: Path) -> None:
        """Take over answers of the same models to the same questions, judged the same; notes what these depend on.

        Args:
            task: of the eval stage.
            folder: of the stage.
        """
        prints = {label: fingerprint(task.of(label)) for label in task.models}
        if rank() == 0:
            write_json(folder / CELLS, prints)
        if self.run is None:
            return
        source = Path(self.run) / "stages" / task.name
        known = read_json(source / CELLS, dict) if (source / CELLS).exists() else {}
        for label in task.models:
            if known.get(label) == prints[label]:
                for target in cells(task, folder, label):
                    if (source / target.name).exists():
                        link(str(source / target.name), str(target))


def link(source: str, target: str) -> None:
    """Files of a finished stage are never changed, so two runs may share them; a file that is there is whole."""
    try:
        os.link(source, target)
    except FileExistsError:
        pass  # an earlier copy, or another rank
    except OSError:
        aside = f"{target}.{os.getpid()}.partial"
        shutil.copy2(source, aside)
        os.replace(aside, target)
