"""One TensorBoard run for a whole training: its settings as hparams, its curves, and its results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dress import config
from dress.base.redaction import redacted
from dress.run.layers import leaves
from dress.run.result_rows import LoggedTable, Samples

METRICS = ("train/loss", "train/token_accuracy")
"""Curves that TensorBoard's table of settings shows the last value of."""


def note_settings(folder: Path, settings: config.Config) -> None:
    """Write a run's settings as hparams, once.

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
    for summary in hparams(values, dict.fromkeys(METRICS, 0.0)):
        writer._get_file_writer().add_summary(summary)
    writer.close()


def _plain(value: Any) -> str | int | float | bool:
    """As hparams can hold it."""
    return value if isinstance(value, str | int | float | bool) else json.dumps(value)


def write_results(
    folder: Path, step: int, flat: Mapping[str, float], tables: Mapping[str, LoggedTable], pictures: Samples
) -> None:
    """Write the end of a run.

    Args:
        folder: of the event files.
        step: the last of the curves.
        flat: figures by name.
        tables: by name.
        pictures: samples with their answers.
    """
    import numpy as np
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))
    for name, value in flat.items():
        writer.add_scalar(name, value, step)
    for name, table in tables.items():
        writer.add_text(name, table.markdown(), step)
    for number, row in enumerate(pictures.rows):
        writer.add_text(f"samples/{number}", LoggedTable(pictures.columns, [row.values]).markdown(), step)
        picture = row.picture()
        if picture is not None:
            writer.add_image(f"samples/{number}", np.asarray(picture), step, dataformats="HWC")
    writer.close()
