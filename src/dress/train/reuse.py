"""Taking over what other runs have finished, as far as it was made from the same things."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from rich.console import Console

from dress.base.files import read_json, write_json
from dress.base.ranks import rank, wait_for
from dress.base.run_folder import DONE, read_marker, short, siblings
from dress.train.eval_stage import cells
from dress.train.tasks import EvalTask, fingerprint

CELLS = "cells.json"
"""Label to the fingerprint of all that a model's answers depend on, beside these answers."""


class Reuse:
    """Stages of another run, and of the other runs of the same sweep.

    Args:
        run: the other run's folder, or None.
        folder: of the run that takes over.
        console: says what is taken over.

    Raises:
        ValueError: no run there.
    """

    def __init__(self, run: str | None, folder: Path, console: Console) -> None:
        self.run, self.folder, self.console = run, folder, console
        if run is not None and not (Path(run) / "stages").is_dir():
            raise ValueError(f"reuse={run}: expected a run folder with stages/, found none")

    def stage(self, name: str, expected: str, folder: Path) -> None:
        """Take a finished stage over if it was made from the same things.

        Args:
            name: of the stage, the same in all runs.
            expected: its fingerprint.
            folder: where it goes.
        """
        if (folder / DONE).exists():
            return
        other = False
        for run, source in self._finished(name):
            if (marker := read_marker(source / DONE))["fingerprint"] != expected:
                other = other or run == self.run
                continue
            if rank() == 0:
                ignored = shutil.ignore_patterns(DONE)
                shutil.copytree(source, folder, dirs_exist_ok=True, copy_function=link, ignore=ignored)
                write_json(folder / DONE, marker)  # last: what is marked is whole
                self.console.print(f"stage {name}: taken over from {run}", highlight=False)
            wait_for(folder / DONE)
            return
        if other and rank() == 0:
            self.console.print(
                f"stage {name}: made anew, for {self.run} made it with other settings or data", highlight=False
            )

    def cells(self, task: EvalTask, folder: Path) -> None:
        """Take over answers of the same models to the same questions, judged the same; notes what these depend on.

        Args:
            task: of the eval stage.
            folder: of the stage.
        """
        prints = {label: fingerprint(task.of(label)) for label in task.models}
        if rank() == 0:
            write_json(folder / CELLS, prints)
        for source in (Path(run) / "stages" / task.name for run in self._runs()):
            known = read_json(source / CELLS, dict) if (source / CELLS).exists() else {}
            for label in task.models:
                if known.get(label) == prints[label]:
                    for target in cells(task, folder, label):
                        if (source / target.name).exists():
                            link(str(source / target.name), str(target))

    def _runs(self) -> list[str]:
        """Folders of other runs, in the order in which they are asked; looked up anew, for runs go on side by side."""
        others = [short(run) for run in siblings(self.folder)]
        return others if self.run is None else [self.run, *others]

    def _finished(self, name: str) -> list[tuple[str, Path]]:
        """Runs that have finished a stage, and its folder there."""
        stages = ((run, Path(run) / "stages" / name) for run in self._runs())
        return [(run, stage) for run, stage in stages if (stage / DONE).exists()]


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
