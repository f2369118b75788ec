"""What `auto` means where a finished run is asked: the rater that the run had, or as the data have it."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from dress.base.errors import ConfigError
from dress.config.data import Data
from dress.config.raters import LLM, PlainRater, RaterSettings
from dress.config.run import Config

AUTO = "auto"
KEY_HOSTS = ("api.openai.com", "localhost", "127.0.0.1", "::1")
"""Servers that a key goes to although only a run's own file, which may be somebody else's, names them."""


def inherited(
    name: Literal["annotator", "judge"], rater: RaterSettings, run: Config | None, data: Data | None = None
) -> RaterSettings:
    """The rater that a command means.

    Args:
        name: of the setting.
        rater: what the command says; anything but `auto` is meant as it stands.
        run: that is asked; None where a file or a server answers.
        data: that the command names; None where it asks about the run's own, or about a folder of shards.

    Returns:
        Of `auto`: the run's own, unless that is only what follows from the run's data and the command names others;
        then, and without a run, the oracle of the world that made the data, and rules where none did.

    Raises:
        ConfigError: the run's is a language model whose server would be sent a key.
    """
    if rater.kind != AUTO:
        return rater
    if run is None or (data is not None and getattr(run, name) == _usual(run.data)):
        return _usual(data)
    own: RaterSettings = getattr(run, name)
    if isinstance(own, LLM) and own.api_key_env is not None and urlsplit(own.base_url).hostname not in KEY_HOSTS:
        raise ConfigError(
            f"{name}: the run's own is {own.model} at {own.base_url}, which would be sent the key in "
            f"{own.api_key_env}. If you trust that server, say so: {name}=llm {name}.base_url={own.base_url} "
            f"{name}.model={own.model} {name}.api_key_env={own.api_key_env}; or choose another one, {name}=rules"
        )
    return own


def described(rater: RaterSettings) -> str:
    """A rater in a few words."""
    return f"{rater.model} at {rater.base_url}" if isinstance(rater, LLM) else rater.kind


def _usual(data: Data | None) -> PlainRater:
    """Who rates answers about these data where nobody says."""
    return PlainRater(kind="rules" if data is None or data.world is None else "oracle")
