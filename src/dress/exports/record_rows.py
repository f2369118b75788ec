"""`format=records`: our own JSON lines, one record a line, a file per split, and the images."""

from __future__ import annotations

import json

from dress.exports.writing import Writing, split_file


def write(to: Writing) -> None:
    """Nothing of a record is left out; `source=records` reads it again, images by `image.id`."""
    for split, _, record, data in to.samples():
        row = json.loads(record.dump())
        name = to.image(record, data)
        if record.image is not None and name != record.image.id:
            row["image"] |= {"id": name, "extra": record.image.extra | {"original_id": record.image.id}}
        to.write(split_file(split, "jsonl"), row)
