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


def config_groups() -> list[str]:
    """The names of the groups of files, which are folders there."""
    return sorted({folder.name for place in config_folders() for folder in place.iterdir() if folder.is_dir()})


def config_files(group: str) -> dict[str, Path]:
    """A group's files by option, each the one that is found first; those that only other files name begin with `_`."""
    places = [place / group for place in reversed(config_folders())]
    return {file.stem: file for place in places for file in sorted(place.glob("[!_]*.yaml"))}
