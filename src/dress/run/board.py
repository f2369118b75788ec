"""One TensorBoard run for a whole training: its settings as hparams, its curves, its results, and charts of them."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from dress import config
from dress.base.redaction import redacted
from dress.run.layers import leaves
from dress.run.panels import logged_names, main_names, sections
from dress.run.result_rows import LoggedTable
from dress.run.run_results import ROUND, RunResults

METRICS = ("train/loss", "train/token_accuracy")
"""Curves that TensorBoard's table of settings shows the last value of, beside the main final figures."""


def note_settings(folder: Path, settings: config.Config) -> None:
    """Write a run's settings as hparams, and the charts of its curves, once.

    Args:
        folder: of the event files.
        settings: of the run; secrets are left out.
    """
    if any(folder.glob("events.out.tfevents.*")):
        return
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    values = {key: _plain(value) for key, value in leaves(redacted(settings.model_dump())) if value is not None}
    writer = SummaryWriter(str(folder))
    for summary in hparams(values, dict.fromkeys((*METRICS, *main_names(settings)), 0.0)):
        writer._get_file_writer().add_summary(summary)
    writer.add_custom_scalars(charts(logged_names(settings)))
    writer.close()


def charts(names: Collection[str]) -> dict[str, dict[str, list[Any]]]:
    """The layout of the tab "Custom scalars": title to charts, each of several curves by their exact names."""
    return {
        section.title: {
            panel.title: ["Multiline", [f"^{re.escape(name)}$" for name in panel.names]] for panel in section.panels
        }
        for section in sections(names)
    }


def _plain(value: Any) -> str | int | float | bool:
    """As hparams can hold it."""
    return value if isinstance(value, str | int | float | bool) else json.dumps(value)


def write_results(folder: Path, settings: config.Config, results: RunResults) -> None:
    """Write the end of a run.

    Args:
        folder: of the event files.
        settings: of the run.
        results: of the run.
    """
    import numpy as np
    from torch.utils.tensorboard import SummaryWriter

    writer, step = SummaryWriter(str(folder)), results.step
    for name, value in results.figures.items():
        writer.add_scalar(name, value, step)
    for row in (*results.collected, *results.rounds):
        for name in row.keys() - {ROUND}:
            writer.add_scalar(name, row[name], int(row[ROUND]))
    for name, table in results.tables.items():
        writer.add_text(name, table.markdown(), step)
    for number, row_of_sample in enumerate(results.samples.rows):
        table = LoggedTable(results.samples.columns, [row_of_sample.values])
        writer.add_text(f"samples/{number}", table.markdown(), step)
        picture = row_of_sample.picture()
        if picture is not None:
            writer.add_image(f"samples/{number}", np.asarray(picture), step, dataformats="HWC")
    writer.add_custom_scalars(charts(logged_names(settings, results)))  # takes the place of the first
    writer.close()
