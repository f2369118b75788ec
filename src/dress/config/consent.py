"""A run's files may be somebody else's: none of the code that they name runs unless this very call says so."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from dress import config
from dress.base.files import read_json

DAMAGED = "Take this file from a copy of the run, or train it again"


def read_run(folder: Path, consent: config.Consent) -> config.Config:
    """The settings of a run, without what only this call may allow.

    Args:
        folder: of the run.
        consent: of this call; it replaces `data.allow_pipe` of the run.

    Raises:
        ValueError: config.json is damaged, or no configuration; names the file.
    """
    settings = checked_run(folder / "config.json")
    return settings.model_copy(update={"data": settings.data.model_copy(update={"allow_pipe": consent.allow_pipe})})


def checked_run(file: Path) -> config.Config:
    """The settings in a run's config.json.

    Raises:
        ConfigError: as in `config.check`, with the file's name.
    """
    found = read_json(file, dict, DAMAGED)
    try:
        return _without_modules(config.check(found), [])
    except config.ConfigError as error:
        raise config.ConfigError(f"{file}: {error}. {DAMAGED}") from None


def _without_modules(settings: config.Config, trusted: list[str]) -> config.Config:
    """Without the modules of phases, which are code, but for those of packages that this call trusts."""
    modules = [name for name in settings.phases.modules if name.partition(".")[0] in ("dress", *trusted)]
    return settings.model_copy(update={"phases": settings.phases.model_copy(update={"modules": modules})})


def model_of(facts: dict[str, object], file: Path, trust_remote_code: bool) -> config.Model:
    """How a saved model is built again.

    Args:
        facts: `model.json`.
        file: its name.
        trust_remote_code: run code that comes with the language model, where the model was trained with it.

    Raises:
        ValueError: damaged, or the file asks for code to be run and this call does not.
    """
    try:
        settings = config.Model.model_validate(facts.get("model"))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(map(str, ("model", *problem["loc"])))
        raise ValueError(f"{file}: {place}: {problem['msg']} (got {problem['input']!r:.80}). {DAMAGED}") from None
    if settings.language.trust_remote_code and not trust_remote_code:
        raise ValueError(
            f"{file}: its model.language runs code of {settings.language.name or settings.language.package!r}. "
            f"If you trust that code, say trust_remote_code=true"
        )
    return settings
