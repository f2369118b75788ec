"""The sweep that a run is a job of: Hydra keeps `multirun.yaml` above its jobs."""

from __future__ import annotations

from pathlib import Path

import yaml

from dress.base.run_folder import SWEEP, of_sweep


def group_of(folder: Path) -> str | None:
    """The sweep's name; None where the run is of none."""
    return folder.absolute().parent.name if of_sweep(folder.absolute()) else None


def varied_settings(folder: Path) -> list[str]:
    """Settings that a job's sweep varies: what its own overrides say beside those that were typed for all of them.

    Args:
        folder: of the job.
    """
    own, whole = folder.absolute() / ".hydra" / "overrides.yaml", folder.absolute().parent / SWEEP
    if not own.exists() or not whole.exists():
        return []
    multirun = yaml.safe_load(whole.read_text(encoding="utf-8")) or {}
    common = ((multirun.get("hydra") or {}).get("overrides") or {}).get("task") or []
    texts = [text for text in yaml.safe_load(own.read_text(encoding="utf-8")) or [] if text not in common]
    return [text.lstrip("+").partition("=")[0] for text in texts]
