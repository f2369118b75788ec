"""Features in parts: each encodes its share of the shards; the merge takes those of a picture from its first shard.

One process encodes a picture that several shards have once, for the first of them. A part does not know of earlier
shards that other parts make, and encodes it again: equal but for rounding, so what differs is replaced here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from dress.base.files import place, read_json, read_lines, write_json, write_lines
from dress.base.parts import Part, check_files, required_facts
from dress.base.run_folder import folder_aside
from dress.config.tasks import Merge
from dress.data.index import FEATURES
from dress.data.index_file import INDEX, read_index
from dress.data.shards import Shards, write_shard
from dress.train.feature_extraction import REJECTS, SETTINGS, rejects_of


class _Place(NamedTuple):
    """Where a picture stands first: the shards of a part, and its number there."""

    shards: Shards
    number: int


def merge(parts: Sequence[Part], settings: Merge, console: Console) -> Path:
    """Make of all parts what one process would have written to `settings.out`; links shards where it can.

    Raises:
        ValueError: a part was changed since it was finished, or `out` holds something else.
    """
    required_facts(parts, "pictures", "damage")
    out = Path(settings.out)
    if _is_there(out, parts):
        console.print(f"Nothing to do: {out} holds these parts already.", highlight=False)
        return out
    splits = list(parts[0].facts["damage"])
    rejects: list[Any] = []
    made_again = 0
    with folder_aside(out) as aside:
        for part in parts:
            check_files(part)
        first: dict[str, _Place] = {}
        for split in splits:
            rejects += [{"where": line, "reason": line} for line in parts[0].facts["damage"][split]]
            for part, shards, name, indices in _shards(parts, split):
                target = aside / name
                target.parent.mkdir(parents=True, exist_ok=True)
                replacements = _replaced(part.facts["pictures"][name], shards, indices, first)
                if replacements:
                    write_shard(target, _samples(shards, indices, replacements))
                else:
                    place(part.folder / name, target)
                made_again += bool(replacements)
                if rejects_of(part.folder / name).exists():
                    rejects += read_lines(rejects_of(part.folder / name))
            Shards(aside / split)  # writes the index
        write_json(aside / SETTINGS, read_json(parts[0].folder / SETTINGS))
        if rejects:
            write_lines(aside / REJECTS, rejects)
    console.print(
        f"of {len(parts)} parts: {out}; shards with features of a picture of an earlier part: {made_again:,}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    console.print(f"Next: python src/train.py data=shards data.path={out}", highlight=False)
    return out


def _is_there(out: Path, parts: Sequence[Part]) -> bool:
    """Whether a folder was made of the same shards, and has all of them."""
    file = out / SETTINGS
    if not file.is_file() or read_json(file) != read_json(parts[0].folder / SETTINGS):
        return False
    names = {name for part in parts for name in part.facts["pictures"]}
    indexes = ((split, read_index(out / split / INDEX)) for split in parts[0].facts["damage"])
    return names == {
        (Path(split) / shard.name).as_posix() for split, index in indexes if index is not None for shard in index.shards
    }


def _shards(parts: Sequence[Part], split: str) -> Iterator[tuple[Part, Shards, str, range]]:
    """The shards of a split in order: the part that has it, all shards of that, its name, and its samples."""
    for part in parts:
        folder = part.folder / split
        if any(folder.glob("**/*.tar")):
            shards = Shards(folder)
            for file, indices in shards.by_file():
                yield part, shards, (Path(split) / file).as_posix(), indices


def _replaced(
    pictures: Sequence[str | None], shards: Shards, indices: range, first: dict[str, _Place]
) -> Mapping[int, bytes]:
    """Features of pictures that stand in an earlier shard and differ there, by sample; notes where pictures are."""
    replacements: dict[int, bytes] = {}
    for index, picture in zip(indices, pictures, strict=True):
        if picture is None:
            continue
        if picture not in first:
            first[picture] = _Place(shards, index)
            continue
        _, own = shards.features_file(index)
        _, earlier = first[picture].shards.features_file(first[picture].number)
        if earlier is not None and own != earlier:
            replacements[index] = earlier
    return replacements


def _samples(shards: Shards, indices: range, features: Mapping[int, bytes]) -> Iterator[dict[str, Any]]:
    """Samples as webdataset has them, with other features for some."""
    for index in indices:
        members = {**shards.members(index), "__key__": shards.record(index).key}
        yield members | {FEATURES: features[index]} if index in features else members
