"""Where metrics go: CSV (default), Weights & Biases, TensorBoard."""

from __future__ import annotations

from lightning.pytorch.loggers import CSVLogger, Logger

from dress import config


def build_logger(settings: config.Config, stage: str, resumed: bool) -> Logger:
    """The logger of one stage."""
    return CSVLogger(settings.run_dir, name="csv", version=f"{stage}-resumed" if resumed else stage)
