"""Captions: pairs of image and text as JSON, JSON lines, CSV, TSV or Parquet, and COCO's captions and instances.

Pairs: a row names an image (`image`, `file_name` …) and a text (`caption`, `text` …; a list is several).
COCO: a JSON object with `images`, `annotations` and, of instances, `categories`. Boxes are x, y, width, height in
pixels there, and fractions x0, y0, x1, y1 in a record. `captions_X.json` takes `instances_X.json` beside it along.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from dress.coco.mentions import COCO80
from dress.coco.questions import questions
from dress.record import ImageAnnotation, ImageRef, Object, Record
from dress.sources.fields import plain_path
from dress.sources.protocol import Part, Place, RowError, RowFile, Source, SourceError
from dress.sources.row_files import row_files_of
from dress.sources.strict_json import parse_bytes
from dress.sources.text_rows import arrays, text_rows

IMAGE_FIELDS = ("image", "file_name", "filename", "image_path", "filepath", "path")
CAPTION_FIELDS = ("caption", "captions", "text", "blip_caption", "title")
NO_ROWS = ("person_keypoints_", "image_info_", "stuff_", "panoptic_")
"""Files of COCO's annotations that add no caption and no object."""
ARRAYS = ("images", "annotations")
"""What tells COCO's files."""


class _Image(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    id: int | str
    file_name: str
    width: int = Field(gt=0)  # pixels
    height: int = Field(gt=0)


class _Annotation(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    image_id: int | str
    caption: str | None = None
    category_id: int | None = None
    bbox: list[float] | None = None  # x, y, width, height in pixels


class Captions(Source):
    """See `protocol.Source`."""

    name = "captions"
    version = 3
    splits = ("align", "sft", "prompts", "eval")
    usual = ("align", "eval")

    def __init__(self) -> None:
        self._categories: dict[str, dict[int, str]] = {}

    def row_files(self, path: Path) -> list[RowFile]:
        """Files of the format; see `protocol.Source.row_files`."""
        row_files = row_files_of(path, "*.json", "*.jsonl", "*.csv", "*.tsv")
        if path.is_file() and path.name.startswith("captions_"):
            instances = path.with_name(path.name.replace("captions_", "instances_", 1))
            row_files += [RowFile(instances)] if instances.is_file() else []
        row_files = [row_file for row_file in row_files if not row_file.file.name.startswith(NO_ROWS)]
        return [
            part
            for row_file in row_files
            for part in ([RowFile(row_file.file, a) for a in ARRAYS] if _is_coco(row_file.file) else [row_file])
        ]

    def image_roots(self, path: Path) -> list[Path]:
        """Also COCO's own places: `train2017/` beside `annotations/captions_train2017.json`."""
        folder = path if path.is_dir() else path.parent
        files = [path] if path.is_file() else folder.glob("*.json")
        names = {match[0] for file in files if (match := re.search(r"(train|val|test)20\d\d", file.name))}
        coco = [above / name for name in sorted(names) for above in (folder, folder.parent)]
        return [*super().image_roots(path), *coco]

    def open(self, path: Path, images: Path | None) -> list[Path]:
        """Read what rows refer to; see `protocol.Source.open`."""
        folder = path if path.is_dir() else path.parent
        for file in folder.glob("*.json"):
            wanted = path.is_dir() or file == path or file.name.startswith("instances_")
            if wanted and _is_coco(file) and "categories" in arrays(file):
                self._categories[file.name] = _categories(file)
        return []

    def parts(self, value: Any, place: Place) -> Iterable[Part]:
        """One part a row; see `protocol.Source.parts`."""
        if place.array == "images":
            yield self._image(_Image.model_validate(value), place)
        elif place.array == "annotations":
            yield self._annotation(_Annotation.model_validate(value), place)
        else:
            yield _pair(value)

    def _image(self, row: _Image, place: Place) -> Part:
        about = {"width": row.width, "height": row.height, **(row.model_extra or {})}
        ref = ImageRef(id=plain_path(row.file_name, "file_name"), extra=about)
        labels = self._categories.get(place.file, {}).values()
        every = {"vocabulary": "coco80"} if set(labels) == set(COCO80) else {}  # all of these that are there are listed
        return Part(image=ref, group=str(row.id), annotation=ImageAnnotation(extra=every), repeated=True)

    def _annotation(self, row: _Annotation, place: Place) -> Part:
        group, extra = str(row.image_id), row.model_extra or {}
        if row.caption is not None:
            return Part(group=group, annotation=ImageAnnotation(captions=[_text(row.caption)], extra=extra))
        label = self._categories.get(place.file, {}).get(row.category_id or 0)
        if label is None:
            raise RowError("unknown category", f"category_id: expected one of the file's, got {row.category_id!r:.80}")
        box = row.bbox or []
        if len(box) != 4 or not all(map(math.isfinite, box)) or min(box[2:]) <= 0:
            raise RowError("bad box", f"bbox: expected x, y, width, height in pixels, got {box!r:.80}")
        thing = Object(label=label, extra={"bbox": box, **extra})
        return Part(group=group, annotation=ImageAnnotation(objects=[thing]))

    def finish(self, record: Record) -> Record:
        """See `protocol.Source.finish`."""
        if record.image is None:
            raise RowError("no image row", f"{record.key}: expected a row of `images` for this annotation, found none")
        objects = [_in_fractions(thing, record.image.extra) for thing in record.annotation.objects]
        annotation = record.annotation.model_copy(update={"objects": objects})
        return record.model_copy(update={"annotation": annotation})

    def split(self, record: Record, held_out: bool) -> Collection[str]:
        """See `protocol.Source.split`."""
        if not record.annotation.captions:
            return ()
        return ("eval",) if held_out else ("align", "sft", "prompts")

    def counted(self, record: Record) -> Iterable[str]:
        """Labels of the record's objects."""
        return {thing.label for thing in record.annotation.objects}

    def written(self, record: Record, split: str, counts: Mapping[str, int]) -> Record:
        """align: the captions. Elsewhere a description, and questions about COCO's objects, where all are known."""
        dialogues = [] if split == "align" else questions(record, split == "sft", counts, self.name)
        return record.model_copy(update={"dialogues": dialogues})


def _is_coco(file: Path) -> bool:
    return file.suffix == ".json" and set(ARRAYS) <= set(arrays(file))


def _categories(file: Path) -> dict[int, str]:
    names = {}
    for row in text_rows(RowFile(file, "categories"))(0):
        try:
            category = parse_bytes(row.data)
            names[int(category["id"])] = str(category["name"])
        except (RowError, KeyError, TypeError, ValueError) as error:
            raise SourceError(f"{file}: categories[{row.number - 1}]: expected id and name ({error})") from None
    return names


def _pair(row: Any) -> Part:
    if not isinstance(row, dict):
        raise RowError("bad field", f"expected an object or a line with an image and a caption, got {row!r:.80}")
    image = next((name for name in IMAGE_FIELDS if name in row), None)
    caption = next((name for name in CAPTION_FIELDS if name in row), None)
    if image is None or caption is None:
        expected = f"one of {', '.join(IMAGE_FIELDS)} and one of {', '.join(CAPTION_FIELDS)}"
        raise RowError("bad field", f"expected {expected}, got {', '.join(map(str, row))!r:.80}")
    texts = row[caption] if isinstance(row[caption], list) else [row[caption]]
    if not texts:
        raise RowError("empty text", f"{caption}: expected text, got {row[caption]!r:.80}")
    boxes = row.get("instances", [])
    has_boxes = _are_boxes(boxes)
    fields = {image, caption, "instances"} if has_boxes else {image, caption}
    objects = [_thing(box) for box in boxes] if has_boxes else []
    return Part(
        image=plain_path(row[image], image),
        annotation=ImageAnnotation(captions=[_text(text, caption) for text in texts], objects=objects),
        extra={name: value for name, value in row.items() if name not in fields},
    )


def _text(text: Any, field: str = "caption") -> str:
    if not isinstance(text, str):
        raise RowError("bad field", f"{field}: expected text, got {text!r:.80}")
    if not text.strip():
        raise RowError("empty text", f"{field}: expected text, got {text!r:.80}")
    return text


def _are_boxes(boxes: Any) -> bool:
    """LLaVA's `caps_boxes`: `[{"category", "bbox": [x0, y0, x1, y1] as fractions}]`."""
    fields = {"category", "bbox"}
    return isinstance(boxes, list) and all(isinstance(box, dict) and fields <= box.keys() for box in boxes)


def _thing(box: dict[str, Any]) -> Object:
    rest = {name: value for name, value in box.items() if name not in ("category", "bbox")}
    corners = box["bbox"]
    if not isinstance(corners, list) or not all(isinstance(x, int | float) and 0 <= x <= 1 for x in corners):
        raise RowError("bad box", f"bbox: expected x0, y0, x1, y1 as fractions, got {corners!r:.80}")
    return Object.model_validate({"label": box["category"], "box": corners, "extra": rest})


def _in_fractions(thing: Object, image: Mapping[str, Any]) -> Object:
    """Pixels to fractions; what lies outside of the image is cut off."""
    if "bbox" not in thing.extra:
        return thing
    x, y, width, height = thing.extra["bbox"]
    across, down = image["width"], image["height"]
    box = (x / across, y / down, (x + width) / across, (y + height) / down)
    return thing.model_copy(update={"box": tuple(min(max(side, 0.0), 1.0) for side in box)})
