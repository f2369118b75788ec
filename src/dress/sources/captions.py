"""Captions: pairs of image and text as JSON, JSON lines, CSV or TSV, and COCO's captions and instances.

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
from dress.sources.ranges import layout, members, ranges
from dress.sources.rows import Part, Place, Rejected, Source, SourceError, Table, plain_path, table_files
from dress.sources.values import value as value_of

IMAGE_FIELDS = ("image", "file_name", "filename", "image_path", "filepath", "path")
CAPTION_FIELDS = ("caption", "captions", "text", "blip_caption", "title")
NO_ROWS = ("person_keypoints_", "image_info_", "stuff_", "panoptic_")
"""Files of COCO's annotations that add no caption and no object."""


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
    """See `rows.Source`."""

    name = "captions"
    version = 2
    splits = ("align", "sft", "prompts", "eval")
    usual = ("align", "eval")

    def __init__(self) -> None:
        self._categories: dict[str, dict[int, str]] = {}

    def tables(self, path: Path) -> list[Table]:
        files = [f for f in table_files(path, "*.json", "*.jsonl", "*.csv", "*.tsv") if not f.name.startswith(NO_ROWS)]
        if path.is_file() and path.name.startswith("captions_"):
            instances = path.with_name(path.name.replace("captions_", "instances_", 1))
            files += [instances] if instances.is_file() else []
        tables = []
        for file in files:
            coco = _is_coco(file)
            tables += [Table(file, "images"), Table(file, "annotations")] if coco else [Table(file)]
        return tables

    def image_roots(self, path: Path) -> list[Path]:
        """Also COCO's own places: `train2017/` beside `annotations/captions_train2017.json`."""
        folder = path if path.is_dir() else path.parent
        files = [path] if path.is_file() else folder.glob("*.json")
        names = {found[0] for file in files if (found := re.search(r"(train|val|test)20\d\d", file.name))}
        coco = [above / name for name in sorted(names) for above in (folder, folder.parent)]
        return [*super().image_roots(path), *coco]

    def open(self, path: Path, images: Path | None) -> list[Path]:
        folder = path if path.is_dir() else path.parent
        for file in folder.glob("*.json"):
            asked = path.is_dir() or file == path or file.name.startswith("instances_")
            if asked and _is_coco(file) and "categories" in members(file):
                self._categories[file.name] = _categories(file)
        return []

    def parts(self, value: Any, place: Place) -> Iterable[Part]:
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
            raise Rejected("unknown category", f"category_id: expected one of the file's, got {row.category_id!r:.80}")
        box = row.bbox or []
        if len(box) != 4 or not all(map(math.isfinite, box)) or min(box[2:]) <= 0:
            raise Rejected("bad box", f"bbox: expected x, y, width, height in pixels, got {box!r:.80}")
        thing = Object(label=label, extra={"bbox": box, **extra})
        return Part(group=group, annotation=ImageAnnotation(objects=[thing]))

    def finish(self, record: Record) -> Record:
        if record.image is None:
            raise Rejected("no image row", f"{record.key}: expected a row of `images` for this annotation, found none")
        objects = [_in_fractions(thing, record.image.extra) for thing in record.annotation.objects]
        annotation = record.annotation.model_copy(update={"objects": objects})
        return record.model_copy(update={"annotation": annotation})

    def split(self, record: Record, held_out: bool) -> Collection[str]:
        if not record.annotation.captions:
            return ()
        return ("eval",) if held_out else ("align", "sft", "prompts")

    def counted(self, record: Record) -> Iterable[str]:
        return {thing.label for thing in record.annotation.objects}

    def written(self, record: Record, split: str, counts: Mapping[str, int]) -> Record:
        """align: the captions. Elsewhere a description, and questions about COCO's objects, where all are known."""
        asked = [] if split == "align" else questions(record, split == "sft", counts, self.name)
        return record.model_copy(update={"dialogues": asked})


def _is_coco(file: Path) -> bool:
    return file.suffix == ".json" and {"images", "annotations"} <= set(members(file))


def _categories(file: Path) -> dict[int, str]:
    table = Table(file, "categories")
    how = layout(table)
    found = {}
    with file.open("rb") as opened:
        for row in ranges(file, how):
            opened.seek(row.offset)
            try:
                category = value_of(opened.read(row.size), row, how)
                found[int(category["id"])] = str(category["name"])
            except (Rejected, KeyError, TypeError, ValueError) as error:
                raise SourceError(f"{file}: categories[{row.number - 1}]: expected id and name ({error})") from None
    return found


def _pair(row: Any) -> Part:
    if not isinstance(row, dict):
        raise Rejected("bad field", f"expected an object or a line with an image and a caption, got {row!r:.80}")
    image = next((name for name in IMAGE_FIELDS if name in row), None)
    caption = next((name for name in CAPTION_FIELDS if name in row), None)
    if image is None or caption is None:
        expected = f"one of {', '.join(IMAGE_FIELDS)} and one of {', '.join(CAPTION_FIELDS)}"
        raise Rejected("bad field", f"expected {expected}, got {', '.join(map(str, row))!r:.80}")
    texts = row[caption] if isinstance(row[caption], list) else [row[caption]]
    if not texts:
        raise Rejected("empty text", f"{caption}: expected text, got {row[caption]!r:.80}")
    boxes = row.get("instances", [])
    known = {image, caption, "instances"} if _are_boxes(boxes) else {image, caption}
    objects = [_thing(box) for box in boxes] if "instances" in known else []
    return Part(
        image=plain_path(row[image], image),
        annotation=ImageAnnotation(captions=[_text(text, caption) for text in texts], objects=objects),
        extra={name: given for name, given in row.items() if name not in known},
    )


def _text(text: Any, field: str = "caption") -> str:
    if not isinstance(text, str):
        raise Rejected("bad field", f"{field}: expected text, got {text!r:.80}")
    if not text.strip():
        raise Rejected("empty text", f"{field}: expected text, got {text!r:.80}")
    return text


def _are_boxes(boxes: Any) -> bool:
    """LLaVA's `caps_boxes`: `[{"category", "bbox": [x0, y0, x1, y1] as fractions}]`."""
    fields = {"category", "bbox"}
    return isinstance(boxes, list) and all(isinstance(box, dict) and fields <= box.keys() for box in boxes)


def _thing(box: dict[str, Any]) -> Object:
    rest = {name: given for name, given in box.items() if name not in ("category", "bbox")}
    corners = box["bbox"]
    if not isinstance(corners, list) or not all(isinstance(x, int | float) and 0 <= x <= 1 for x in corners):
        raise Rejected("bad box", f"bbox: expected x0, y0, x1, y1 as fractions, got {corners!r:.80}")
    return Object.model_validate({"label": box["category"], "box": corners, "extra": rest})


def _in_fractions(thing: Object, image: Mapping[str, Any]) -> Object:
    """Pixels to fractions; what lies outside of the image is cut off."""
    if "bbox" not in thing.extra:
        return thing
    x, y, width, height = thing.extra["bbox"]
    across, down = image["width"], image["height"]
    box = (x / across, y / down, (x + width) / across, (y + height) / down)
    return thing.model_copy(update={"box": tuple(min(max(side, 0.0), 1.0) for side in box)})
