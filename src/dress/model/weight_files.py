"""Safetensors files that a user names: whether they are there and whole, before anything is made."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from dress.base.files import read_json

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Suffixes of files that run code when they are read."""
CONVERT = (
    "python -c \"import torch, safetensors.torch as s; s.save_file(torch.load('{name}', weights_only=True), "
    "'{stem}.safetensors')\""
)


def check_file(file: Path, key: str) -> None:
    """Refuse a file that is no whole safetensors file.

    Args:
        file: its path.
        key: the setting and its value, for messages.

    Raises:
        ValueError: missing, a pickle, or cut; names it, and what to do.
    """
    if file.suffix in PICKLES:
        make = CONVERT.format(name=file, stem=file.with_suffix(""))
        raise ValueError(f"{key}: expected a .safetensors file, got a pickle, which can run code. Convert it: {make}")
    if not file.is_file():
        raise ValueError(f"{key}: expected a .safetensors file, found none ({file})")
    try:
        with safe_open(file, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{key}: {file.name}: expected whole safetensors, got {file.stat().st_size:,} bytes that do not load "
            f"({error}). Was the download finished?"
        ) from None


def check_folder(folder: Path, key: str) -> None:
    """Refuse a folder of transformers whose weights are not there or not whole.

    Args:
        folder: with `model.safetensors`, or its parts and their index.
        key: the setting and its value, for messages.

    Raises:
        ValueError: names the file.
    """
    index, whole = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        parts = read_json(index, dict).get("weight_map")
        if not isinstance(parts, dict):
            raise ValueError(f"{key}: {index.name}: expected a weight_map, found none")
        files = [folder / str(name) for name in sorted(set(parts.values()))]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise ValueError(
                f"{key}: {index.name} names {len(files)} files, of which {len(missing)} are missing, first "
                f"{missing[0]}. Was the download finished?"
            )
    elif whole.is_file():
        files = [whole]
    else:
        pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
        got = f"{pickles[0]}, a pickle, which can run code" if pickles else "none"
        raise ValueError(f"{key}: expected model.safetensors, got {got}")
    for file in files:
        check_file(file, key)
