"""A run's files may be somebody else's: none of the code that they name runs unless this very call says so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dress.base.errors import ConfigError
from dress.base.files import read_json
from dress.config.checking import check
from dress.config.migration import migrate, migrate_model
from dress.config.model import MODEL, HFModel, Model
from dress.config.run import Config
from dress.config.targets import PROJECTOR, check_target, refuse_untrusted
from dress.config.types import Consent

DAMAGED = "Take this file from a copy of the run, or train it again"


def read_run(folder: Path, consent: Consent) -> Config:
    """The settings of a run, without what only this call may allow.

    Args:
        folder: of the run.
        consent: of this call; it replaces `data.allow_pipe` of the run.

    Raises:
        ValueError: config.json is damaged, no configuration, or names classes of unknown packages; names the file.
    """
    settings = checked_run(folder / "config.json", consent.trust_targets)
    refuse_untrusted(settings.model_dump(), folder / "config.json", consent.trust_targets)
    return settings.model_copy(update={"data": settings.data.model_copy(update={"allow_pipe": consent.allow_pipe})})


def checked_run(file: Path, trust_targets: Sequence[str] = ()) -> Config:
    """The settings in a run's config.json; those of DRESS 0.1 under today's names.

    Args:
        file: config.json.
        trust_targets: packages of phases (`phases.modules`), which are code; modules of others are left out.

    Raises:
        ConfigError: as in `config.check`, with the file's name.
    """
    saved: dict[str, Any] = read_json(file, dict, DAMAGED)
    try:
        settings = check(migrate(saved, file) | {"trust_targets": list(trust_targets)})
    except ConfigError as error:
        message = str(error) if str(error).startswith(f"{file}: ") else f"{file}: {error}. {DAMAGED}"
        raise ConfigError(message) from None
    modules = [name for name in settings.phases.modules if name.partition(".")[0] in ("dress", *trust_targets)]
    return settings.model_copy(update={"phases": settings.phases.model_copy(update={"modules": modules})})


def model_of(facts: dict[str, object], file: Path, consent: Consent) -> Model:
    """How a saved model is built again.

    Args:
        facts: `model.json`.
        file: its name.
        consent: run code that comes with the language model where the model was trained with it, and build classes of
            further packages.

    Raises:
        ValueError: damaged, or the file asks for code to be run and this call does not.
    """
    model = facts.get("model")
    try:
        settings = MODEL.validate_python(migrate_model(model) if isinstance(model, dict) else model)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(map(str, ("model", *problem["loc"][1:])))
        raise ValueError(f"{file}: {place}: {problem['msg']} (got {problem['input']!r:.80}). {DAMAGED}") from None
    refuse_untrusted(settings.model_dump(), file, consent.trust_targets)
    if isinstance(settings, HFModel):
        return settings
    check_target(settings.projector, f"{file}: model.projector", PROJECTOR)
    if settings.language.trust_remote_code and not consent.trust_remote_code:
        raise ValueError(
            f"{file}: its model.language runs code of {settings.language.name!r}. "
            f"If you trust that code, say trust_remote_code=true"
        )
    return settings
