"""The end of a run: figures, outcomes, the report, and what the run took."""

from __future__ import annotations

import resource
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from dress import config
from dress.base.files import write_json
from dress.base.run_folder import read_run_json
from dress.data.shards import Sample
from dress.evaluation.suites.run import write_results
from dress.kernels.precision import precision_for
from dress.model.lvlm import LVLM
from dress.phases.conditions import headline
from dress.train.eval_stage import outcomes, samples
from dress.train.run_data import RunData
from dress.train.splits import is_there
from dress.train.tasks import EvalTask
from dress.train.tools import Loggers


class Results:
    """Writes what a finished run has reached into its folder.

    Args:
        settings: of the run.
        task: of the eval stage whose figures are the run's; None without one.
        loggers: get the figures too.
    """

    def __init__(self, settings: config.Config, task: EvalTask | None, loggers: Loggers) -> None:
        self.settings, self.task, self.loggers = settings, task, loggers
        self.folder = Path(settings.run_dir)

    def write(self, model: LVLM, data: RunData) -> dict[str, Any]:
        """Write `outcomes.jsonl`, `metrics.json` and `report.html`.

        Args:
            model: how its images were prepared is noted in the report.
            data: of the run.

        Returns:
            What `metrics.json` holds.
        """
        judged = outcomes(self.task, self.folder / "stages" / self.task.name) if self.task else []
        shown = samples(self.task) if self.task and judged else []
        figures = write_results(
            self.folder, judged, headline(self.settings.curriculum), shown, self.settings.eval,
            self._notes(shown, model, data),
        )  # fmt: skip
        self.loggers.results(figures, judged, shown)
        return figures

    def write_times(self, seconds: float, stages: Mapping[str, float], own_stages: Collection[str]) -> str:
        """Write `run.json`; what of its time this process gave to each stage, in words.

        Args:
            seconds: of this process; those of earlier ones are added.
            stages: seconds by stage.
            own_stages: the stages that this process has made; others were finished before, or taken over.
        """
        file, own = self.folder / "run.json", seconds
        if file.exists():
            seconds += read_run_json(file)["seconds"]
        write_json(
            file,
            {
                "name": self.settings.name,
                "seed": self.settings.seed,
                "seconds": round(seconds, 2),
                "stages": {name: round(value, 2) for name, value in stages.items()},
                "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
                "precision": precision_for(self.settings.trainer.precision),
                "threads": torch.get_num_threads(),
                "headline": headline(self.settings.curriculum),
            },
        )
        parts = {name: value for name, value in stages.items() if name in own_stages}
        parts["all else"] = max(0.0, own - sum(parts.values()))
        shares = ", ".join(f"{name} {part / max(own, 1e-9):.0%}" for name, part in parts.items())
        return f"{own:,.0f} s: {shares}"

    def _notes(self, shown: list[Sample], model: LVLM, data: RunData) -> list[str]:
        """What a reader of the report must know before its figures."""
        settings, settings_of_model = self.settings.data, self.settings.model
        images = [image for _, image in shown if image is not None]
        resized = model.resize_note(images, settings.max_aspect)
        notes = [] if resized is None else [resized]
        from_scratch = (
            isinstance(settings_of_model, config.ComposedModel) and settings_of_model.language.config is not None
        )
        if settings.world is None and from_scratch and is_there(self.settings, "sft", data.root):
            records = sum(len(part.shards) for part in data.stream(settings.sft).parts)
            notes.append(
                f"A model from scratch on {records:,} real images: nobody should expect good captions. "
                f"What this shows is that the whole method runs on these data. A model whose SFT data hold "
                f"no refusal never samples one, so feedback on its own answers cannot teach it to refuse."
            )
        return notes
