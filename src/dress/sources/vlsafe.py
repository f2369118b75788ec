"""VLSafe (of LVLM_NLF): COCO photos with captions and adversarial queries, and COCO-80 objects.

`path` holds `*.jsonl` (rows `image_id, caption, query`, and `reference` in the alignment file), `images/` and
`objects.json` (image id → labels). The photos teach and test all three criteria: a description (honesty), balanced
questions about objects (helpfulness), the query and a harmless request (harmlessness), answered for few photos.
With `images=` the photos lie elsewhere, and where there is no `objects.json` nothing is asked about objects.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from dress.coco.mentions import COCO80
from dress.coco.questions import listing, questions
from dress.coco.requests import examples, harmless
from dress.record import Dialogue, ImageAnnotation, Object, Record, Turn
from dress.sources.protocol import Part, Place, RowError, RowFile, Source, SourceError
from dress.sources.row_files import row_files_of
from dress.sources.text_rows import read_whole

OBJECTS = "objects.json"
HARMFUL = {"kind": "harmful"}


class _Row(BaseModel):
    """A row of the publisher; further fields are kept."""

    model_config = ConfigDict(extra="allow", strict=True)

    # A plain file name: it becomes a path below images/ and the key of a sample.
    image_id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,69}\.(?i:jpg|jpeg|png|webp)$")
    caption: str
    query: str
    reference: str | None = None  # a good answer to the query (the alignment file has them)


class VLSafe(Source):
    """See `protocol.Source`."""

    name = "vlsafe"
    version = 4
    splits = ("align", "sft", "prompts", "eval")

    def __init__(self) -> None:
        self._objects: dict[str, Any] | None = None

    def row_files(self, path: Path) -> list[RowFile]:
        """Files of the format; see `protocol.Source.row_files`."""
        return row_files_of(path, "*.jsonl")

    def open(self, path: Path, images: Path | None) -> list[Path]:
        """Read what rows refer to; see `protocol.Source.open`."""
        folder = path if path.is_dir() else path.parent
        file = folder / OBJECTS
        if images is None:
            row_files_of(path, "*.jsonl")
            for exists, what in ((file.is_file(), OBJECTS), ((folder / "images").is_dir(), "images/")):
                if not exists:
                    raise SourceError(f"{folder}: expected {what} in it (source=vlsafe without images=), found none")
        if not file.is_file():
            return []
        self._objects = read_whole(file)
        if not isinstance(self._objects, dict):
            raise SourceError(f"{file}: expected {{image id: [labels]}}, got {self._objects!r:.80}")
        return [file]

    def parts(self, value: Any, place: Place) -> Iterable[Part]:
        """One part a row; see `protocol.Source.parts`."""
        row = _Row.model_validate(value)
        query = Dialogue(
            criterion="harmlessness",
            reference=row.reference,
            turns=[Turn(user=_plain(row.query, "query"))],
            extra={"request": HARMFUL, **(row.model_extra or {})},
        )
        yield Part(
            image=row.image_id,
            key=f"coco-{row.image_id.rpartition('.')[0]}",
            annotation=ImageAnnotation(captions=[_plain(row.caption, "caption")]),
            dialogues=[query],
        )

    def finish(self, record: Record) -> Record:
        """See `protocol.Source.finish`."""
        assert record.image is not None
        queries: dict[str, Dialogue] = {}
        for dialogue in record.dialogues:
            user = dialogue.turns[0].user
            earliest = queries.setdefault(user, dialogue)
            if dialogue.reference:
                queries[user] = earliest.model_copy(update={"reference": dialogue.reference})
        annotation = record.annotation
        if self._objects is not None:
            annotation = annotation.model_copy(
                update={
                    "objects": [Object(label=label) for label in self._labels(record.image.id, self._objects)],
                    "extra": {"vocabulary": "coco80"},  # all of these that are there are listed
                }
            )
        return record.model_copy(update={"annotation": annotation, "dialogues": list(queries.values())})

    def _labels(self, image: str, objects: dict[str, Any]) -> list[str]:
        labels = objects.get(image)
        if not isinstance(labels, list):
            got = "no entry" if image not in objects else repr(labels)[:80]
            raise RowError("objects missing", f"{image}: expected a list of labels in {OBJECTS}, got {got}")
        unknown = [label for label in labels if label not in COCO80]
        if unknown:
            raise RowError("unknown object", f"{image}: expected COCO-80 labels, got {unknown!r:.80}")
        return list(dict.fromkeys(labels))

    def split(self, record: Record, held_out: bool) -> Collection[str]:
        """See `protocol.Source.split`."""
        return ("eval",) if held_out else ("align", "sft", "prompts")

    def counted(self, record: Record) -> Iterable[str]:
        """Labels of the record's objects."""
        return (thing.label for thing in record.annotation.objects)

    def written(self, record: Record, split: str, counts: Mapping[str, int]) -> Record:
        """align: captions, and a list of the objects. sft: answered, few of the requests. Else: all open."""
        if split == "align":
            captions = [*record.annotation.captions, *filter(None, [listing(record)])]
            annotation = record.annotation.model_copy(update={"captions": captions})
            return record.model_copy(update={"annotation": annotation, "dialogues": []})
        dialogues = questions(record, split == "sft", counts, self.name)
        if split == "sft":
            dialogues += examples(record, record.dialogues, self.name)
        else:
            request = harmless(record, self.name)
            dialogues += [*record.dialogues, *([] if request is None else [request])]
        return record.model_copy(update={"dialogues": dialogues})


def _plain(text: str, field: str) -> str:
    if not text.strip():
        raise RowError("empty text", f"{field}: expected text, got {text!r}")
    return text
