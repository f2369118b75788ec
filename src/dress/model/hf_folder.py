"""Folders and hub ids of vision-language models of transformers: what is there, and reading it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, PretrainedConfig

from dress import config
from dress.base.errors import in_one_line
from dress.base.files import read_json
from dress.model.attention import NAME
from dress.model.hf_pictures import HFReader
from dress.model.language import bars_for_people, load_pretrained, refuse_modules, refuse_unsupported
from dress.model.skeleton import on_meta
from dress.model.weight_files import check_file

ADAPTER = "adapter_config.json"
"""Says that a folder holds an adapter, and of which base."""


def check_hf(settings: config.HFModel) -> PretrainedConfig:
    """Refuse a model that is not there, or that token trees do not represent, before any weight is read.

    Returns:
        transformers' configuration of it.

    Raises:
        ValueError: names it, and why.
    """
    where, (name, revision) = f"model.name={settings.name}", base_of(settings)
    try:
        described = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{where}: expected a folder or hub id of a transformers model{_of(name, settings)} ({_line(error)})"
        ) from None
    if type(described) not in AutoModelForImageTextToText._model_mapping:
        raise ValueError(
            f"{where}: expected an image-text-to-text model, got {described.model_type}. A language model goes into "
            f"model=composed model.language.name={settings.name}"
        )
    refuse_unsupported(described, where, own_positions=True)
    return described


def load_processor(settings: config.HFModel) -> Any:
    """A model's processor: tokenizer, template, and how images are resized.

    Raises:
        ValueError: none there, or it does not load.
    """
    try:
        processor = AutoProcessor.from_pretrained(
            settings.name, revision=settings.revision, trust_remote_code=False, **settings.processor
        )
    except Exception as error:  # each processor raises its own
        raise ValueError(f"model.name={settings.name}: its processor does not load ({_line(error)})") from None
    if getattr(processor, "image_processor", None) is None or getattr(processor, "image_token", None) is None:
        raise ValueError(
            f"model.name={settings.name}: expected a processor with an image token, got {type(processor).__name__}: "
            f"preprocessor_config.json or processor_config.json is missing, or this is no image-text-to-text model"
        )
    return processor


def layout_reader(settings: config.HFModel) -> HFReader:
    """What tells how many tokens an image has, without the model's weights.

    Raises:
        ValueError: as `check_hf` and `load_processor`.
    """
    described = check_hf(settings)
    return HFReader(load_processor(settings), described, ["image_grid_thw"], settings.name)


def base_of(settings: config.HFModel) -> tuple[str, str | None]:
    """Folder or hub id of the weights, and the revision: of an adapter's folder its base's, else its own.

    Raises:
        ValueError: adapter_config.json is damaged or names no base.
    """
    file = Path(settings.name) / ADAPTER
    if not file.is_file():
        return settings.name, settings.revision
    described = read_json(file, dict)
    base, revision = described.get("base_model_name_or_path"), described.get("revision")
    if not isinstance(base, str) or not base:
        raise ValueError(f"{file}: base_model_name_or_path: expected a folder or hub id, got {base!r:.60}")
    return base, revision if isinstance(revision, str) else None


def load_network(settings: config.HFModel) -> Any:
    """A model with its weights in fp32, and where its folder holds an adapter, with that merged into them.

    Raises:
        ValueError: pickles, weights that are missing or damaged, or what only the built model shows; all by name.
    """
    name, revision = base_of(settings)
    where, folder = f"model.name={settings.name}", Path(name)
    pickles = sorted(folder.glob("*.bin")) if folder.is_dir() and not any(folder.glob("*.safetensors")) else []
    if pickles:
        raise ValueError(
            f"{where}: expected weights as safetensors, got {pickles[0].name}, a pickle, which can run code. Convert "
            f"it where you trust it: AutoModelForImageTextToText.from_pretrained(OLD).save_pretrained(NEW)"
        )
    bars_for_people()
    try:
        loaded: Any = load_pretrained(
            AutoModelForImageTextToText, name, revision=revision, trust_remote_code=False,
            attn_implementation={"text_config": NAME, "vision_config": "sdpa"},
            use_safetensors=True, output_loading_info=True,
        )  # fmt: skip
    except (OSError, ImportError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{where}: {_damaged(folder)} does not load ({_line(error)})") from None
    network, missing = (loaded, None) if on_meta() else loaded
    if missing and (missing["missing_keys"] or missing["mismatched_keys"]):
        first = sorted([*missing["missing_keys"], *map(str, missing["mismatched_keys"])])[0]
        raise ValueError(f"{where}: its safetensors lack weights of the model, first {first}")
    if name != settings.name and not on_meta():
        network = _with_adapter(network, Path(settings.name))
    network.generation_config.pad_token_id = None
    refuse_modules(network, where)
    return network


def _with_adapter(network: Any, folder: Path) -> Any:
    """The network with an adapter merged into its weights.

    Raises:
        ValueError: it is no safetensors file, or one for another base.
    """
    file = folder / "adapter_model.safetensors"
    check_file(file, f"model.name={folder}")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            model = PeftModel.from_pretrained(network, folder)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"model.name={folder}: {file.name}: an adapter for another base ({_line(error)})") from None
    lacking = [str(one.message) for one in said if "missing adapter keys" in str(one.message)]
    if lacking:
        raise ValueError(f"model.name={folder}: {file.name} lacks weights of its adapter ({lacking[0]:.200})")
    return model.merge_and_unload()


def _of(name: str, settings: config.HFModel) -> str:
    return "" if name == settings.name else f", the base {name} that its {ADAPTER} names"


def _damaged(folder: Path) -> str:
    """The files of weights that cannot be opened, by name; else the folder's."""
    names = []
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError:
            names.append(file.name)
    return ", ".join(names) or "it"


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {in_one_line(error)}"
