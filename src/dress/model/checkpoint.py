"""A trained model on disk: `model.safetensors`, `model.json`, `tokenizer.json`; nothing executes.

Weights that came with a named model and were never trained are not written again; their fingerprint
is, and loading refuses other ones.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from dress import config
from dress.base.files import read_json, write_aside, write_json
from dress.base.ranks import of_first, rank
from dress.config.consent import DAMAGED, model_of
from dress.config.model import RANDOM
from dress.dialogue.chat import ChatFormat
from dress.dialogue.tokenizer import load_tokenizer, save_tokenizer, tokenizer_hash
from dress.kernels.precision import multiplies_bf16
from dress.model.building import make_model, own_tokenizer
from dress.model.chats import own_format
from dress.model.lvlm import LVLM
from dress.model.quantization import few_numbers, originals
from dress.model.sharding import full_state, load_full_state, units
from dress.model.vision import from_run

FORMAT = 1
FACTS: dict[str, Any] = {"max_tokens": int, "tokenizer": str, "base": str | None}
"""What loading needs of `model.json`, beside the model."""
MORE_FACTS: dict[str, Any] = {"rounded": list, "stage": str, "stages": list, "conditions": dict, "config": dict}
"""What may stand there too."""


def save_model(model: LVLM, settings: config.Model, folder: Path, facts: dict[str, Any]) -> None:
    """Write a model; the first rank does, and all call.

    Args:
        model: its weights are written in their own dtype.
        settings: how to build it again.
        folder: made if missing.
        facts: plain data kept beside the weights (conditions, stage history, config).
    """
    frozen, state = base_names(model, settings, facts), full_state(model)
    base = fingerprint(model, frozen, state)
    if rank() > 0:
        return
    folder.mkdir(parents=True, exist_ok=True)
    left = frozen | _tied(model)
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items() if name not in left}
    with write_aside(folder / "model.safetensors", SafetensorError) as aside:
        save_file(tensors, aside)
    with write_aside(folder / "tokenizer.json", Exception) as aside:  # of the tokenizers library, in Rust
        save_tokenizer(model.encoder.tokenizer, aside)
    write_json(
        folder / "model.json",
        {
            "format": FORMAT,
            "model": _alone(settings).model_dump(),
            "max_tokens": model.encoder.max_tokens,
            "chat": model.encoder.chat.name,
            "tokenizer": tokenizer_hash(model.encoder.tokenizer),
            "base": base,
            "rounded": list(model.rounded),
            **facts,
        },
    )


def _alone(settings: config.Model) -> config.Model:
    """Without the run and the file that parts were taken from: their weights are in this model's file."""
    if isinstance(settings, config.HFModel):
        return settings
    changed: dict[str, Any] = {"projector_weights": None}
    if from_run(settings.vision):
        weights = None if settings.vision.folder is None else RANDOM
        changed["vision"] = settings.vision.model_copy(update={"weights": weights})
    return settings.model_copy(update=changed)


def available_device() -> str:
    """Where a command of one process computes: a GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_model(
    folder: Path, device: torch.device | str = "cpu", consent: config.Consent | None = None, exact: bool = False
) -> tuple[LVLM, dict[str, Any]]:
    """Read a model and the facts beside it.

    One that was trained in bf16 computes in bf16 where the hardware multiplies it, as its run did.

    Args:
        folder: of the stage.
        device: where the model goes.
        consent: to code that its files name; without it such a model is refused.
        exact: compute in fp32 anyway, and with matrices as they were before any was packed (`model.quantize`).

    Raises:
        FileNotFoundError: no model in this folder.
        ValueError: a file is damaged, or the base weights are others than it was trained on.
    """
    facts = read_facts(folder)
    return read_model(folder, model_of(facts, folder / "model.json", consent or config.Consent()), device, exact), facts


def read_model(folder: Path, settings: config.Model, device: torch.device | str = "cpu", exact: bool = False) -> LVLM:
    """Read a model whose settings are known; the rest as `load_model`."""
    facts, settings = read_facts(folder), _alone(settings)
    if exact:
        settings = settings.model_copy(update={"quantize": None})
    model = make_model(settings, stored_tokenizer(folder, settings), facts["max_tokens"])
    model.round(facts.get("rounded", []))
    load_weights(model, settings, folder)
    if not exact and multiplies_bf16(device):
        model.hold_rounded()
    return model.to(device)


def read_facts(folder: Path, *needed: str) -> dict[str, Any]:
    """`model.json` as plain data.

    Args:
        folder: of the stage.
        needed: facts that must be there, beside those of every model.

    Raises:
        FileNotFoundError: no model in this folder.
        ValueError: damaged; names the file.
    """
    file = folder / "model.json"
    if not file.exists():
        raise FileNotFoundError(f"{folder}: expected model.json and model.safetensors, found none")
    facts: dict[str, Any] = read_json(file, dict, DAMAGED)
    if facts.get("format") != FORMAT:
        raise ValueError(f"{file}: expected format {FORMAT}, got {facts.get('format')!r:.60}. {DAMAGED}")
    more = {name: kind for name, kind in MORE_FACTS.items() if name in facts or name in needed}
    for name, kind in (FACTS | more).items():
        if not isinstance(facts.get(name), kind) or isinstance(facts[name], bool):
            raise ValueError(
                f"{file}: {name}: expected {_english(kind)}, got {facts.get(name, 'nothing')!r:.60}. {DAMAGED}"
            )
    return facts


def _english(kind: Any) -> str:
    return " or ".join(one.__name__ for one in getattr(kind, "__args__", (kind,)))


def read_training_state(file: Path) -> dict[str, Any]:
    """What an unfinished stage saved, on the CPU; nothing in it is executed.

    Raises:
        ValueError: cut, empty, or something else; names the file and the way out.
    """
    remedy = f"Delete this file: the stage then begins anew (resume={run_of(file.parent)})"
    try:
        checkpoint = torch.load(file, weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, OSError) as error:
        why = str(error).partition("\n")[0][:100] or type(error).__name__
        size = file.stat().st_size if file.exists() else 0
        raise ValueError(
            f"{file}: expected a checkpoint, got {size:,} bytes that do not load ({why}). {remedy}"
        ) from None
    steps = checkpoint.get("global_step") if isinstance(checkpoint, dict) else None
    if not isinstance(steps, int):
        raise ValueError(f"{file}: expected a checkpoint with global_step, got {type(checkpoint).__name__}. {remedy}")
    return checkpoint


def run_of(stage: Path) -> Path:
    """The run that a stage's folder belongs to."""
    return stage.parent.parent if stage.parent.name == "stages" else stage


def stored_tokenizer(folder: Path, settings: config.Model) -> PreTrainedTokenizerBase:
    """The named model's own tokenizer, or the hermetic one stored beside the weights."""
    own = own_tokenizer(settings)
    if own is not None:
        return own
    assert isinstance(settings, config.ComposedModel)
    return read_tokenizer(folder / "tokenizer.json", own_format(settings.language))


def read_tokenizer(file: Path, chat: ChatFormat) -> PreTrainedTokenizerBase:
    """A tokenizer that a run trained.

    Raises:
        ValueError: damaged, or something else; names the file.
    """
    try:
        return load_tokenizer(file, chat)
    except Exception as error:  # of the tokenizers library, which raises nothing more special
        why = str(error).partition("\n")[0][:100] or type(error).__name__
        raise ValueError(f"{file}: expected a tokenizer, got a file that does not load ({why}). {DAMAGED}") from None


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
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"{file}: expected model weights, got a file that does not load ({error}). {DAMAGED}"
        ) from None
    frozen = base_names(model, settings, facts)
    left = frozen | _tied(model)
    expected_tensors = {name: value for name, value in model.state_dict().items() if name not in left}
    wrong = sorted(weights.keys() ^ expected_tensors.keys()) or [
        name for name in expected_tensors if expected_tensors[name].shape != weights[name].shape
    ]
    if wrong:
        name = wrong[0]
        got, expected = (tuple(part[name].shape) if name in part else "nothing" for part in (weights, expected_tensors))
        raise ValueError(
            f"{file}: a checkpoint of another model: {len(wrong)} tensors differ, first {name}: "
            f"expected {expected}, got {got}"
        )
    if facts["base"] != (base := fingerprint(model, frozen)):
        what = "an adapter" if all(model.part_of(name) == "lora" for name in weights) else "weights"
        raise ValueError(
            f"{file}: {what} for another base: trained on other base weights ({facts['base']}) than those installed "
            f"here as {_base(settings)} ({base}). Put those there that it was trained on"
        )
    load_full_state(model, weights)


def _base(settings: config.Model) -> str:
    if isinstance(settings, config.HFModel):
        return settings.name
    return str(settings.language.name or settings.vision.name)


def base_names(model: LVLM, settings: config.Model, facts: Mapping[str, Any]) -> set[str]:
    """Names of weights that came with a named model and that no stage of the run (in `facts`) trains."""
    try:
        stages = facts.get("config", {}).get("curriculum", {}).get("stages", {})
        trained = {part for stage in stages.values() for part in stage.get("trainable", [])}
    except (AttributeError, TypeError):
        raise ValueError(
            f"model.json: config.curriculum.stages: expected stages, got something else. {DAMAGED}"
        ) from None
    parts = from_files(settings)
    if isinstance(settings, config.ComposedModel):
        parts -= {"projector"}
        if from_run(settings.vision):
            parts -= {"vision"}
        if settings.lora is None:
            parts -= {"language"}
    return {name for name in model.state_dict() if (part := model.part_of(name)) in parts and part not in trained}


def from_files(settings: config.Model) -> set[str]:
    """Parts of a model whose weights come from files."""
    if isinstance(settings, config.HFModel):
        return {"vision", "projector", "language"}
    there = {
        "vision": settings.vision.loaded,
        "projector": settings.projector_weights is not None,
        "language": settings.language.config is None,
    }
    return {part for part, from_file in there.items() if from_file}


def loaded_weights(model: LVLM, settings: config.Model) -> str | None:
    """Fingerprint of what the model was given from files before it learned anything; None if it was drawn."""
    loaded = from_files(settings)
    return fingerprint(model, {name for name in model.state_dict() if model.part_of(name) in loaded})


def fingerprint(model: LVLM, names: set[str], state: Mapping[str, torch.Tensor] | None = None) -> str | None:
    """Of the named weights: their names, shapes and a few of their numbers; the same on every rank, and all call.

    Of a packed matrix it is that of the matrix before: adapters fit both.

    Args:
        model: spread over ranks or not.
        names: of weights.
        state: what `full_state` gives, where it is there already.
    """
    if not names:
        return None
    state = full_state(model, names) if state is None else state
    digest, packed = hashlib.sha256(), originals(model)
    for name in sorted(names & state.keys()):
        shape, few = packed.get(name) or (tuple(state[name].shape), few_numbers(state[name]))
        if name in packed and model.part_of(name) in model.rounded:
            few = few.bfloat16().float()
        digest.update(f"{name}{shape}".encode() + few.numpy().tobytes())
    return of_first(digest.hexdigest()[:16]) if units(model) else digest.hexdigest()[:16]


def _tied(model: LVLM) -> set[str]:
    """Names of weights that are another one under a second name: a tied output head is made again by the model."""
    first: set[int] = set()
    tied = set()
    named = chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    for name, value in named:
        if id(value) in first:
            tied.add(name)
        first.add(id(value))
    return tied
