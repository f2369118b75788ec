"""Who answers, by what `responder` names. Light on purpose: a file of answers needs no model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from dress.base.files import read_json
from dress.config import Config, Consent
from dress.config.consent import read_run


def responder_kind(name: str) -> Literal["checkpoint", "model", "file", "server"]:
    """What `responder=NAME` is: a run folder (its checkpoint), a model's folder, a file of answers, or an address.

    Raises:
        FileNotFoundError: none of them.
    """
    if name.startswith(("http://", "https://")):
        return "server"
    path = Path(name)
    if path.is_file():
        return "file"
    if is_model(path):
        return "model"
    if (path / "config.json").is_file():
        return "checkpoint"
    raise FileNotFoundError(
        f"responder={name}: expected a run folder with config.json, the folder of a model of transformers, a file of "
        f"answers (JSON lines), or the address of a server (http://…/v1), found none"
    )


def is_set(name: str) -> bool:
    """Whether `responder=NAME` is a folder of shards, whose own answers are meant."""
    path = Path(name)
    return path.is_dir() and not (path / "config.json").exists() and next(path.glob("*.tar"), None) is not None


def is_model(folder: Path) -> bool:
    """Whether a folder holds a vision-language model of transformers, or an adapter of one; an exported one does."""
    if (folder / "adapter_config.json").is_file():
        return True
    file = folder / "config.json"
    return file.is_file() and "model_type" in read_json(file, dict)


def run_settings(name: str, consent: Consent) -> Config | None:
    """The settings of the run that `responder=NAME` is, None where it is none; see `consent.read_run`."""
    return read_run(Path(name), consent) if responder_kind(name) == "checkpoint" else None
