"""A trained model on disk: `model.safetensors`, `model.json`, `tokenizer.json`; nothing executes.

Weights that came with a named model and were never trained are not written again; their fingerprint
is, and loading refuses other ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from dress import config
from dress.dialogue.chat import FORMATS
from dress.dialogue.tokenizer import load_tokenizer, save_tokenizer, tokenizer_hash
from dress.files import read_json, write_json
from dress.model.language import load_own_tokenizer
from dress.model.lvlm import LVLM
from dress.model.vision import from_run

FORMAT = 1


def save_model(model: LVLM, settings: config.Model, folder: Path, facts: dict[str, Any]) -> None:
    """Write a model.

    Args:
        model: its weights are written in their own dtype.
        settings: how to build it again.
        folder: made if missing.
        facts: plain data kept beside the weights (conditions, stage history, config).
    """
    folder.mkdir(parents=True, exist_ok=True)
    frozen = base_names(model, settings, facts)
    kept = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items() if name not in frozen}
    kept = _untied(kept)
    aside = folder / "model.safetensors.partial"
    save_file(kept, aside)
    aside.replace(folder / "model.safetensors")
    save_tokenizer(model.encoder.tokenizer, folder / "tokenizer.json")
    write_json(
        folder / "model.json",
        {
            "format": FORMAT,
            "model": _alone(settings).model_dump(),
            "max_tokens": model.encoder.max_tokens,
            "chat": settings.language.chat,
            "tokenizer": tokenizer_hash(model.encoder.tokenizer),
            "base": fingerprint(model, frozen),
            "rounded": list(model.rounded),
            **facts,
        },
    )


def _alone(settings: config.Model) -> config.Model:
    """Without the run that the encoder was taken from: its weights are in this model's file."""
    if not from_run(settings.vision):
        return settings
    return settings.model_copy(update={"vision": settings.vision.model_copy(update={"weights": None})})


def load_model(folder: Path, device: torch.device | str = "cpu") -> tuple[LVLM, dict[str, Any]]:
    """Read a model and the facts beside it.

    Raises:
        FileNotFoundError: no model in this folder.
        ValueError: a file is damaged, or the base weights are others than it was trained on.
    """
    facts = read_facts(folder)
    settings = config.Model.model_validate(facts["model"])
    model = LVLM(settings, stored_tokenizer(folder, settings), facts["max_tokens"])
    model.round(facts.get("rounded", []))
    load_weights(model, settings, folder)
    return model.to(device), facts


def read_facts(folder: Path) -> dict[str, Any]:
    """`model.json` as plain data."""
    file = folder / "model.json"
    if not file.exists():
        raise FileNotFoundError(f"{folder}: expected model.json and model.safetensors, found none")
    facts = read_json(file)
    if facts.get("format") != FORMAT:
        raise ValueError(f"{file}: expected format {FORMAT}, got {facts.get('format')!r}")
    return facts


def stored_tokenizer(folder: Path, settings: config.Model) -> PreTrainedTokenizerBase:
    """The named model's own tokenizer, or the hermetic one stored beside the weights."""
    own = load_own_tokenizer(settings.language)
    return own if own is not None else load_tokenizer(folder / "tokenizer.json", FORMATS[settings.language.chat])


def load_weights(model: LVLM, settings: config.Model, folder: Path) -> None:
    """Put a folder's weights into a model.

    Raises:
        ValueError: the file is damaged, or belongs to another model (names or shapes differ).
    """
    file, facts = folder / "model.safetensors", read_facts(folder)
    if facts["tokenizer"] != tokenizer_hash(model.encoder.tokenizer):
        raise ValueError(
            f"{folder / 'tokenizer.json'}: expected tokenizer {facts['tokenizer']} as in model.json, "
            f"got {tokenizer_hash(model.encoder.tokenizer)}"
        )
    try:
        weights = load_file(file)
    except (SafetensorError, FileNotFoundError) as error:
        raise ValueError(f"{file}: expected model weights, got a file that does not load ({error})") from None
    frozen = base_names(model, settings, facts)
    wanted = _untied({name: value for name, value in model.state_dict().items() if name not in frozen})
    wrong = sorted(weights.keys() ^ wanted.keys()) or [
        name for name in wanted if wanted[name].shape != weights[name].shape
    ]
    if wrong:
        name = wrong[0]
        got, expected = (tuple(part[name].shape) if name in part else "nothing" for part in (weights, wanted))
        raise ValueError(
            f"{file}: a checkpoint of another model: {len(wrong)} tensors differ, first {name}: "
            f"expected {expected}, got {got}"
        )
    if facts["base"] != fingerprint(model, frozen):
        raise ValueError(f"{folder}: trained on other base weights than those installed here ({facts['base']})")
    model.load_state_dict(weights, strict=False)


def base_names(model: LVLM, settings: config.Model, facts: Mapping[str, Any]) -> set[str]:
    """Names of weights that came with a named model and that no stage of the run (in `facts`) trains."""
    stages = facts.get("config", {}).get("curriculum", {}).get("stages", {})
    trained = {part for stage in stages.values() for part in stage.get("trainable", [])}
    names: set[str] = set()
    if settings.vision.weights is not None and not from_run(settings.vision):
        names |= {n for n in model.state_dict() if n.startswith("vision.")}
    if settings.language.config is None and settings.language.lora is not None:
        names |= {n for n in model.state_dict() if n.startswith("language.") and "lora_" not in n}
    return {name for name in names if model.part_of(name) not in trained}


def loaded_weights(model: LVLM, settings: config.Model) -> str | None:
    """Fingerprint of what the model was given from files before it learned anything; None if it was drawn."""
    given = {"vision.": settings.vision.weights is not None, "language.": settings.language.config is None}
    loaded = tuple(part for part, is_given in given.items() if is_given)
    return fingerprint(model, {n for n in model.state_dict() if n.startswith(loaded) and "lora_" not in n})


def fingerprint(model: LVLM, names: set[str]) -> str | None:
    """Of the named weights: their names, shapes and a few of their numbers."""
    if not names:
        return None
    digest = hashlib.sha256()
    state = model.state_dict()
    for name in sorted(names):
        few = state[name].flatten()[:: max(1, state[name].numel() // 64)].float().cpu()
        digest.update(f"{name}{tuple(state[name].shape)}".encode() + few.numpy().tobytes())
    return digest.hexdigest()[:16]


def _untied(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Each storage once: a tied output head is made again by the model itself."""
    seen: set[int] = set()
    kept = {}
    for name, value in state.items():
        if value.data_ptr() in seen and value.numel():
            continue
        seen.add(value.data_ptr())
        kept[name] = value
    return kept
