"""Our own records as JSON lines, images by file name (`image.id`).

A file named after a split (`sft.jsonl`, or any name in a folder `sft/`) fills that folder with its records as they
are; of other files every record goes where its content belongs.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from dress.record import Record
from dress.sources.fields import plain_path
from dress.sources.protocol import SPLITS, Part, Place, RowFile, Source
from dress.sources.row_files import row_files_of


class Records(Source):
    """See `protocol.Source`."""

    name = "records"

    def row_files(self, path: Path) -> list[RowFile]:
        """A file, or all `*.jsonl` of a folder and of its folders named after splits."""
        patterns = ["*.jsonl", *(f"{split}/*.jsonl" for split in SPLITS)]
        return row_files_of(path, *patterns)

    def parts(self, value: Any, place: Place) -> Iterable[Part]:
        """One part a row; see `protocol.Source.parts`."""
        record = Record.model_validate(value)
        image = record.image
        if image is not None:
            image = image.model_copy(update={"id": plain_path(image.id, "image.id")})
        file = PurePosixPath(place.file)
        yield Part(
            image=image,
            group=record.key,
            key=record.key,
            split=next((name for name in (file.stem, file.parent.name) if name in SPLITS), None),
            source=record.source,
            annotation=record.annotation,
            dialogues=record.dialogues,
            extra=record.extra,
        )
