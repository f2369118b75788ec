"""A file that lists tables, each with its folder of images, as InternVL's `meta.json` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dress.sources.fields import plain_path
from dress.sources.protocol import RowError, SourceError
from dress.sources.text_rows import read_whole


def listed_files(listing: Path) -> dict[Path, str]:
    """Table to the folder that its image names are relative to.

    Args:
        listing: JSON of `{name: {root, annotation, …}}`; paths are relative to its folder or to the one above.

    Raises:
        SourceError: another form, or a table that is not there.
    """
    entries: Any = read_whole(listing)
    files: dict[Path, str] = {}
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        try:
            annotation, root = plain_path(entry["annotation"], "annotation"), plain_path(entry["root"], "root")
        except (KeyError, TypeError, RowError) as error:
            raise SourceError(
                f"{listing}: {name}: expected root and annotation, paths below a folder ({error})"
            ) from None
        places = [folder / annotation for folder in (listing.parent, listing.parent.parent)]
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            raise SourceError(f"{listing}: {name}: expected {places[0]} or {places[1]}, found neither")
        files[file] = root
    if not files:
        raise SourceError(f"{listing}: expected tables, got none")
    return files
