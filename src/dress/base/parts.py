"""Parts of a task (`part=K/N`): the folder of each, and what a finished one says of itself in `part.json`.

A part is made by itself, on any machine that sees the same files, and is resumed as the whole task is. `task=merge`
makes of all parts what one process would have written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dress.base.errors import ConfigError
from dress.base.files import checksum, read_json, required, write_json

PART = "part.json"
"""Marks a finished part."""
PART_WAIT = 60.0
"""Seconds that a part waits for another process to end that makes it too: a launcher starts a part again that it
believes dead."""
AGAIN = "the same command makes it again"
_FOLDER = re.compile(r"part-(\d{3,})-of-(\d{3,})")


class PartNumber(NamedTuple):
    """One of so many parts; the first has number 0."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> PartNumber:
        """What `K/N` says.

        Raises:
            ValueError: no two numbers, or K is not below N.
        """
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if match is None or int(match[1]) >= int(match[2]):
            raise ValueError(f"expected K/N with 0 <= K < N, e.g. 0/4, got {text!r:.40}")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def folder(self, out: Path) -> Path:
        """Where this part is written."""
        return out / f"part-{self.number:03d}-of-{self.of:03d}"

    def span(self, total: int) -> range:
        """Which of so many things are this part's: one after another, and parts in order."""
        return range(self.number * total // self.of, (self.number + 1) * total // self.of)


class Part(NamedTuple):
    """A finished part: its folder, what it depends on, and what else it says of itself."""

    folder: Path
    identity: Mapping[str, Any]
    facts: Mapping[str, Any]


def finish_part(folder: Path, task: str, identity: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Mark a part as done.

    Args:
        folder: of the part.
        task: that it is a part of.
        identity: all that the result depends on, the same for every part.
        facts: what the merge has to know of this part; `files` are the sha256 of what it reads, by name.
    """
    write_json(folder / PART, {"task": task, "identity": identity, **facts})


def finished_part(folder: Path, identity: Mapping[str, Any]) -> Part | None:
    """The part that a folder holds, None where none is finished there.

    Raises:
        ConfigError: it is a part of other input or settings.
    """
    if not (folder / PART).exists():
        return None
    part = _read(folder)
    if unlike := difference(part.identity, json.loads(json.dumps({"task": part.identity["task"], **identity}))):
        raise ConfigError(f"{folder}: holds a part made with other {unlike}. Choose another out=, or delete it")
    return part


def required_facts(parts: Iterable[Part], *names: str) -> None:
    """Raises ConfigError: a part lacks one of the facts that its task says of itself."""
    for part in parts:
        required(dict(part.facts), names, part.folder / PART, f"Delete the part: {AGAIN}")


def read_parts(folder: Path) -> tuple[str, list[Part]]:
    """The task and all parts, in order.

    Raises:
        ConfigError: one is missing, unfinished, or of another number of parts, task, input or settings than the first.
    """
    there = sorted(
        PartNumber(int(match[1]), int(match[2]))
        for place in (folder.iterdir() if folder.is_dir() else ())
        if place.is_dir() and (match := _FOLDER.fullmatch(place.name))
    )
    if not there:
        raise ConfigError(f"parts={folder}: expected folders part-000-of-… (part=K/N makes them), found none")
    first = there[0]
    other = next((number for number in there if number.of != first.of), None)
    if other is not None:
        raise ConfigError(
            f"{other.folder(folder)}: expected one of {first.of} parts, as {first.folder(folder).name}, got one of "
            f"{other.of}. Delete those that are not meant"
        )
    numbers = [PartNumber(number, first.of) for number in range(first.of)]
    for number in numbers:
        if not (number.folder(folder) / PART).exists():
            state = "an unfinished one" if number in there else "none"
            raise ConfigError(f"{number.folder(folder)}: expected a finished part, found {state}. Run part={number}")
    parts = [_read(number.folder(folder)) for number in numbers]
    for number, part in zip(numbers, parts, strict=True):
        if unlike := difference(parts[0].identity, part.identity):
            raise ConfigError(
                f"{part.folder}: made with other {unlike} than {parts[0].folder.name}. Delete one of them, and run "
                f"its part again (part={number})"
            )
    return str(parts[0].identity["task"]), parts


def difference(expected: Mapping[str, Any], got: Mapping[str, Any]) -> str:
    """The first key that differs, with both values; empty where none does."""
    for name in {**expected, **got}:
        if expected.get(name) != got.get(name):
            return f"{name} ({expected.get(name)!r:.200} expected, {got.get(name)!r:.200} got)"
    return ""


def check_files(part: Part, names: Iterable[str] | None = None) -> None:
    """Raises ConfigError: a file of a part is not there, or another than when the part was finished."""
    for name, sha256 in part.facts["files"].items():
        if names is not None and name not in names:
            continue
        file = part.folder / name
        if not file.is_file():
            raise ConfigError(f"{file}: expected this file of a finished part, found none. Delete the part: {AGAIN}")
        if (got := checksum(file)) != sha256:
            raise ConfigError(
                f"{file}: changed since the part was finished (sha256 {sha256[:12]} expected, {got[:12]} got). "
                f"Delete the part: {AGAIN}"
            )


def _read(folder: Path) -> Part:
    remedy = f"Delete it: {AGAIN}"
    facts = read_json(folder / PART, dict, remedy)
    required(facts, ("task", "identity", "files"), folder / PART, remedy)
    if not isinstance(facts["identity"], dict) or not isinstance(facts["files"], dict):
        raise ConfigError(f"{folder / PART}: expected identity and files, got other content. {remedy}")
    for name in facts["files"]:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ConfigError(f"{folder / PART}: files: expected names below the part, got {name!r:.80}. {remedy}")
    return Part(folder, {"task": facts["task"], **facts["identity"]}, facts)
