"""Loading a model to be asked: that of a run's stage, or one behind a server."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dress.config import Consent
from dress.config.checking import check_as
from dress.config.consent import read_run
from dress.config.graph import last_trained
from dress.config.names import check_name
from dress.config.raters import Endpoint, Server
from dress.llm.client import build_client
from dress.phases.conditions import own_condition
from dress.phases.registry import load_phases
from dress.rollout.kinds import is_model
from dress.rollout.loaded_model import LoadedModel
from dress.rollout.server import SERVER_TOKENS, ServerResponder


def load(
    source: str | os.PathLike[str], *, stage: str | None = None, device: str | None = None,
    trust_remote_code: bool = False, trust_targets: Sequence[str] = (), **server: Any,
) -> LoadedModel:  # fmt: skip
    """A model that answers: `load("logs/latest")`, or `load("http://127.0.0.1:8000/v1", model="NAME")`.

    Args:
        source: a run folder, the folder of one of its stages, an exported folder or any other of a vision-language
            model of transformers, or the address of an OpenAI-compatible server.
        stage: of a run: whose model; None for the last that trains.
        device: of a run: `cpu`, `cuda`, …; None for a GPU where there is one.
        trust_remote_code: run code that comes with the run's language model.
        trust_targets: packages beside the known ones whose classes the run's files may name.
        server: of a server: `model`, and what else `Server` in src/dress/config/raters.py has. Every call is
            written into `ledger=FILE`; without one it is kept as long as the model.

    Raises:
        FileNotFoundError: no run, or its stage holds no model.
        ValueError: a damaged or foreign file, no such stage, a setting that does not exist, or code that this call
            does not trust.
    """
    name = os.fspath(source)
    if name.startswith(("http://", "https://")):
        return _of_server(name, server)
    if server:
        raise ValueError(f"{next(iter(server))}: only a server takes it, and {name} is none (http://…/v1)")
    folder = Path(name).absolute()
    if (folder / "model.json").is_file() and folder.parent.name == "stages" and stage is None:
        folder, stage = folder.parent.parent, folder.name
    if is_model(folder):
        return _of_folder(folder, stage, device)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{name}: expected a run folder (with config.json), a folder of a model of transformers, or a server's "
            f"address (http://…/v1), found none"
        )
    consent = Consent(trust_remote_code=trust_remote_code, trust_targets=list(trust_targets))
    return _of_run(folder, stage, device, consent)


def _of_run(folder: Path, stage: str | None, device: str | None, consent: Consent) -> LoadedModel:
    import torch

    from dress.model.checkpoint import available_device, load_model, read_facts
    from dress.rollout.checkpoint import CkptResponder

    run = read_run(folder, consent)
    load_phases(run.phases.modules)
    if stage is None:
        stage = last_trained(run.curriculum)
    check_name("stage", stage, run.curriculum.train_stages(), "one of the stages that train ({})")
    place = folder / "stages" / stage
    texts = read_facts(place, "conditions")["conditions"]
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device={device}: expected one that torch finds here ({str(error).splitlines()[0]})"
        ) from None
    model, _ = load_model(place, device or available_device(), consent)
    model.eval()
    responder = CkptResponder(model, f"{run.name}/{stage}", max_aspect=run.data.max_aspect)
    advice = run.eval.refine_condition
    return LoadedModel(
        responder, run.generation.max_new_tokens, texts, own_condition(run.curriculum, stage),
        advice if advice in texts else "none",
    )  # fmt: skip


def _of_folder(folder: Path, stage: str | None, device: str | None) -> LoadedModel:
    from dress.model.checkpoint import available_device
    from dress.rollout.model_folder import open_model

    if stage is not None:
        raise ValueError(f"stage={stage}: only a run has stages, and {folder} is a model's folder")
    model = open_model(folder, device or available_device())
    return LoadedModel(model.responder, model.max_new_tokens, model.conditions, model.condition, model.advice_condition)


def _of_server(address: str, settings: dict[str, Any]) -> LoadedModel:
    server = check_as(Server, settings)
    if server.model is None:
        raise ValueError(f'model: expected the name that the server knows it by: load("{address}", model="NAME")')
    endpoint = check_as(Endpoint, {"base_url": address, **server.model_dump(exclude={"sees_image", "system"})})
    folder = tempfile.TemporaryDirectory(prefix="dress-", ignore_cleanup_errors=True)
    responder = ServerResponder(build_client(endpoint, Path(folder.name)), server.sees_image, server.system)
    model = LoadedModel(responder, SERVER_TOKENS)
    weakref.finalize(model, folder.cleanup)
    return model
