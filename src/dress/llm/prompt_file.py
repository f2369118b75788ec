"""Prompts for language models: YAML files with a version, whose hash stands in every record and outcome."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import ClassVar, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from dress.base.config_folder import CONFIGS as CONFIGS
from dress.base.config_folder import config_files, config_folders
from dress.record import Record, describe

NOTHING = "(not known)"


class VersionedFile(BaseModel):
    """A file of prompts with a name and a version: what a subclass adds."""

    model_config = ConfigDict(extra="forbid")

    folder: ClassVar[Path]
    setting: ClassVar[str]
    """Which setting names the file, for errors."""

    name: str = Field(pattern=r"^[\w-]+$")
    version: int
    hash: str = ""

    @property
    def prompt_version(self) -> str:
        """Name, version and hash of the file: the same for the same prompts only."""
        return f"{self.name}-{self.version}+{self.hash}"

    @classmethod
    def load(cls, name: str) -> Self:
        """The prompt of that name (a file in `folder`), or at that path.

        Raises:
            ValueError: no such file, or a field in it does not fit.
        """
        places = [folder / cls.folder.name / f"{name}.yaml" for folder in config_folders()]
        path = next((place for place in places if place.is_file()), cls.folder / f"{name}.yaml")
        if name.endswith((".yaml", ".yml")):
            path = Path(name)
        if not path.is_file():
            known = ", ".join(sorted(config_files(cls.folder.name)))
            raise ValueError(f"{cls.setting}={name}: expected a file, found none at {path}. There are: {known}")
        text = path.read_bytes()
        try:
            prompt = cls.model_validate(yaml.safe_load(text))
        except yaml.YAMLError as error:
            raise ValueError(f"{path}: expected YAML ({error})") from None
        except ValidationError as error:
            raise ValueError(f"{path}: {describe(error)}") from None
        return prompt.model_copy(update={"hash": hashlib.sha256(text).hexdigest()[:8]})


class PromptFile(VersionedFile):
    """A prompt: what a subclass adds, and the texts of its two messages."""

    fields: ClassVar[frozenset[str]]
    """What may stand in braces in `user`."""

    system: str
    user: str

    @field_validator("user")
    @classmethod
    def _fields_exist(cls, text: str) -> str:
        return check_fields(text, cls.fields)


def check_fields(text: str, fields: Collection[str]) -> str:
    """The text.

    Raises:
        ValueError: something else stands in braces in it than one of the fields.
    """
    for _, field, _, _ in string.Formatter().parse(text):
        if field is not None and field not in fields:
            raise ValueError(f"no such field {{{field}}}; there are {', '.join(sorted(fields))}")
    return text


def lines(texts: Sequence[str]) -> str:
    """A list for a prompt; `NOTHING` where it is empty."""
    return "\n".join(f"- {text}" for text in texts) or NOTHING


def objects(record: Record) -> str:
    """What is known to be in the image, with boxes where they are known."""
    return lines([_object(thing.label, thing.box) for thing in record.annotation.objects])


def _object(label: str, box: tuple[float, float, float, float] | None) -> str:
    return label if box is None else f"{label} [{', '.join(f'{side:.2f}' for side in box)}]"
