"""Who answers, by what `responder` names. Light on purpose: a file of answers needs no model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dress.config import Config, Consent
from dress.config.consent import read_run

SERVER_TOKENS = 512
"""Longest answer of a server where `max_new_tokens` is null (ours)."""


@dataclass(frozen=True)
class Source:
    """Who answers, by what `responder` names: a run folder, a file of answers, or a server's address."""

    text: str

    @property
    def kind(self) -> str:
        """ckpt, file or server.

        Raises:
            FileNotFoundError: neither a run folder nor a file.
        """
        if self.text.startswith(("http://", "https://")):
            return "server"
        path = Path(self.text)
        if path.is_file():
            return "file"
        if (path / "config.json").is_file():
            return "ckpt"
        raise FileNotFoundError(
            f"responder={self.text}: expected a run folder with config.json, a file of answers (JSON lines), or the "
            f"address of a server (http://…/v1), found none"
        )

    def trained(self, consent: Consent) -> Config | None:
        """The settings of the run, where it is one; see `consent.read_run`."""
        return read_run(Path(self.text), consent) if self.kind == "ckpt" else None
