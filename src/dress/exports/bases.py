"""What a model was made from, and under which licences that stands, as far as its files say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from dress import config
from dress.config.model import RANDOM
from dress.data.licences import NOT_STATED

LICENCE_FILES = ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*", "USE_POLICY*")
RESTRICTING = re.compile(r"(?:^|-)nd(?:-|$)|no-?deriv", re.IGNORECASE)
"""Identifiers of licences that allow no changed copies."""


@dataclass(frozen=True)
class Base:
    """A model that training began with.

    Attributes:
        part: vision encoder, language model, or both.
        name: hub id, or name of a folder.
        licence: an identifier, or `not stated`.
        hub: whether the name is a hub id.
        folder: with its files, where there is one.
    """

    part: str
    name: str
    licence: str
    hub: bool = False
    folder: Path | None = None

    @property
    def forbids_changes(self) -> bool:
        """Whether the licence allows no changed copies."""
        return bool(RESTRICTING.search(self.licence))

    @property
    def licence_files(self) -> list[Path]:
        """Texts of licences in its folder."""
        if self.folder is None:
            return []
        return sorted(file for name in LICENCE_FILES for file in self.folder.glob(name) if file.is_file())


def bases_of(model: config.Model) -> list[Base]:
    """What a model's weights began as; empty for a model from scratch."""
    return list(_bases(model))


def _bases(model: config.Model) -> Iterator[Base]:
    if isinstance(model, config.HFModel):
        yield _named("vision-language model", model.name)
        return
    vision, language = model.vision, model.language
    if vision.folder is not None and vision.weights != RANDOM:
        yield _named("vision encoder", vision.folder)
    elif vision.weights is not None and (vision.name or vision.timm) is not None:
        yield Base("vision encoder", f"{vision.name or vision.timm}, {vision.weights}", NOT_STATED)
    if language.name is not None:
        yield _named("language model", language.name)


def _named(part: str, name: str) -> Base:
    folder = Path(name)
    if not folder.is_dir():
        return Base(part, name, NOT_STATED, hub=re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None)
    front = _front(folder / "README.md")
    stated = front.get("license_name") if front.get("license") == "other" else front.get("license")
    licences = stated if isinstance(stated, list) else [stated or NOT_STATED]
    return Base(part, folder.resolve().name, " and ".join(map(str, licences)), folder=folder)


def _front(card: Path) -> dict[str, object]:
    """The front matter of a model card; empty where there is none."""
    try:
        text = card.read_text(encoding="utf-8")
        value = yaml.safe_load(text.split("---\n", 2)[1]) if text.startswith("---\n") else {}
    except (OSError, UnicodeDecodeError, IndexError, yaml.YAMLError):
        return {}
    return value if isinstance(value, dict) else {}
