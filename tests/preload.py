"""What the server that forks scripts loads first, and works out once."""

import importlib

from dress.report import page  # before torch: dress sets how CPU threads wait

for name in (
    "lightning.pytorch.loggers", "open_clip", "peft", "scipy.stats", "dress.evaluation.command",
    "dress.evaluation.report", "dress.feedback.command", "dress.model.building", "dress.run.preparing",
    "dress.run.training", "dress.run.loggers", "dress.train.curriculum",
):  # fmt: skip
    importlib.import_module(name)
page._script()
