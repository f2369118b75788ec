"""Who answers, by what `responder` names. Light on purpose: a file of answers needs no model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from dress.config import Config, Consent
from dress.config.consent import read_run


def responder_kind(name: str) -> Literal["checkpoint", "file", "server"]:
    """What `responder=NAME` is: a run folder (its checkpoint), a file of answers, or a server's address.

    Raises:
        FileNotFoundError: none of them.
    """
    if name.startswith(("http://", "https://")):
        return "server"
    path = Path(name)
    if path.is_file():
        return "file"
    if (path / "config.json").is_file():
        return "checkpoint"
    raise FileNotFoundError(
        f"responder={name}: expected a run folder with config.json, a file of answers (JSON lines), or the "
        f"address of a server (http://…/v1), found none"
    )


def run_settings(name: str, consent: Consent) -> Config | None:
    """The settings of the run that `responder=NAME` is, None where it is none; see `consent.read_run`."""
    return read_run(Path(name), consent) if responder_kind(name) == "checkpoint" else None
