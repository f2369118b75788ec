"""What a stage trained beside a checkpoint of transformers, as an adapter that peft loads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import nn

from dress import config
from dress.model.hf import HFLVLM

PREFIX = "base_model.model."
"""Before names of weights in an adapter's file."""


def write_adapter(model: HFLVLM, settings: config.HFModel, projector: bool, folder: Path) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`.

    Args:
        model: trained, with LoRA.
        settings: of it; its `name` is the base.
        projector: whether what stands between encoder and language model was trained too.
        folder: that exists.

    Raises:
        ValueError: a parameter was trained that an adapter has no place for.
    """
    assert settings.lora is not None, "looked at before"
    weights = {name.removeprefix("network."): value.detach().cpu() for name, value in model.state_dict().items()}
    modules = _projector_modules(model) if projector else []
    tensors = {}
    for name, value in weights.items():
        if "lora_" in name or any(name.startswith(f"{module}.") for module in modules):
            tensors[PREFIX + name.replace(".default", "")] = value.contiguous()
    maps = sorted({name.rpartition(".")[2] for name, one in model.named_modules() if isinstance(one, LoraLayer)})
    text = re.escape(model.text_prefix.removeprefix("network."))
    described = LoraConfig(
        r=settings.lora.rank, lora_alpha=settings.lora.alpha, use_dora=settings.lora.dora, task_type="CAUSAL_LM",
        target_modules=rf"{text}.*\.({'|'.join(maps)})", modules_to_save=modules or None, inference_mode=True,
        base_model_name_or_path=_base(settings), revision=settings.revision,
    )  # fmt: skip
    described.save_pretrained(str(folder))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _base(settings: config.HFModel) -> str:
    """A folder by its whole path, for whoever loads the adapter from elsewhere."""
    return str(Path(settings.name).resolve()) if Path(settings.name).is_dir() else settings.name


def _projector_modules(model: HFLVLM) -> list[str]:
    """Modules between encoder and language model, each as large as can be called.

    Raises:
        ValueError: a parameter stands in none.
    """
    names = [name for name, _ in model.named_parameters() if model.part_of(name) == "projector"]
    modules: dict[str, Any] = dict(model.named_modules())
    tops: set[str] = set()
    for name in names:
        parts = name.split(".")
        above = [".".join(parts[:end]) for end in range(1, len(parts))]
        inside = [one for one in above if all(model.part_of(p) == "projector" for p in _under(model, one))]
        callable_ = [one for one in inside if not isinstance(modules[one], nn.ModuleList)]
        if not callable_:
            raise ValueError(
                f"adapter=true: {name.removeprefix('network.')} was trained, a parameter of its own, which an adapter "
                f"has no place for. Leave adapter=true out: merged weights"
            )
        tops.add(callable_[0].removeprefix("network."))
    return sorted(tops)


def _under(model: HFLVLM, module: str) -> list[str]:
    return [name for name, _ in model.named_parameters() if name.startswith(f"{module}.")]
