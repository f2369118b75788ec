"""Where the YAML files, prompts and rubrics are: in a checkout, or in the installed package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_PLACES = (_PACKAGE / "configs", _PACKAGE.parents[1] / "configs")

CONFIGS = next((place for place in _PLACES if (place / "train.yaml").is_file()), _PLACES[-1])
"""The folder with train.yaml, prompts/ and rubrics/. A wheel holds it inside of the package."""


def config_folders() -> list[Path]:
    """Where a YAML file is looked for: `configs/` in the working folder first, then that of DRESS."""
    own = Path.cwd() / "configs"
    return [own, CONFIGS] if own.is_dir() and not own.samefile(CONFIGS) else [CONFIGS]
