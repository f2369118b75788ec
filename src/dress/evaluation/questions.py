"""What a judged suite asks: questions over records, with the images where they are given."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dress.evaluation.suites.outcome import SuiteOutcome
from dress.evaluation.suites.reading import Row, image_key, read_mapping, read_rows
from dress.record import Criterion, Dialogue, ImageAnnotation, ImageRef, Object, Record, Turn


@dataclass(frozen=True)
class Asked:
    """One question.

    `key` names it among all; `number` is its publisher's question_id; `image` the file that is shown,
    None where there is none to show; `facts` are known beforehand and join those of the judge.
    """

    key: str
    category: str
    record: Record
    dialogue: Dialogue
    number: str | None = None
    image: Path | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    where: str | None = None

    @property
    def user(self) -> str:
        return self.dialogue.turns[-1].user

    def failed(self, reason: str, **more: Any) -> SuiteOutcome:
        return SuiteOutcome(self.key, self.category, reason, {**self.facts}, user=self.user, where=self.where, **more)


def question(
    key: str, category: str, image: str | None, user: str, images: Images, *, criterion: Criterion | None = None,
    reference: str | None = None, annotation: ImageAnnotation | None = None, kind: str | None = None, **more: Any,
) -> Asked:  # fmt: skip
    """A question about an image.

    Args:
        key, category: names.
        image: id of the image, or None.
        user: what is asked.
        images: where image files lie.
        criterion, reference, annotation: of the dialogue and the record.
        kind: description, question, harmful or harmless: what the rules take it for.
        more: further fields of `Asked`.
    """
    name = "".join(c if c.isalnum() or c in "-_" else "_" for c in (image or key)).lstrip("-") or "x"
    record = Record(
        key=name, image=ImageRef(id=image) if image is not None else None, annotation=annotation or ImageAnnotation()
    )
    extra = {"request": {"kind": kind}} if kind is not None else {}
    dialogue = Dialogue(criterion=criterion, reference=reference, turns=[Turn(user=user)], extra=extra)
    return Asked(key, category, record, dialogue, image=images.get(image), **more)


class Images:
    """Image files of a folder, found however an image is named.

    Args:
        folder: None holds no image.

    Raises:
        FileNotFoundError: no such folder.
    """

    def __init__(self, folder: str | None) -> None:
        self.given = folder is not None
        self._files: dict[str, Path] = {}
        if folder is not None:
            if not Path(folder).is_dir():
                raise FileNotFoundError(f"images={folder}: expected a folder, found none")
            with os.scandir(folder) as entries:
                self._files = {image_key(entry.name): Path(entry.path) for entry in entries if entry.is_file()}

    def get(self, image: str | None) -> Path | None:
        return None if image is None else self._files.get(image_key(image))

    def names(self) -> set[str]:
        """Of all images (see `reading.image_key`)."""
        return set(self._files)

    def lacks(self, image: str | None) -> bool:
        """Whether this image ought to be there and is not."""
        return self.given and image is not None and self.get(image) is None


def read_listed(setting: str, path: str, field_name: str) -> list[Row]:
    """Rows of a file; or, where it is one object as VQA has it, of its list `field_name`."""
    found = read_mapping(setting, path)
    if isinstance(found, dict) and isinstance(found.get(field_name), list):
        places = ((f"{Path(path).name}[{n}]", row) for n, row in enumerate(found[field_name]))
        return [Row(place, row) if isinstance(row, dict) else Row(place, {}, "not an object") for place, row in places]
    return read_rows(setting, path)


def read_annotations(path: str | None) -> dict[str, ImageAnnotation]:
    """What is known of images: rows of `image`, `captions` (or `caption`) and perhaps `instances` with boxes.

    This is the form of LLaVA-Eval's `caps_boxes` and of LLaVA-Bench's `context` files.
    """
    if path is None:
        return {}
    found = {}
    for row in read_rows("context", path):
        image = row.text("image", "image_id", "id")
        if row.damage is None and image is not None:
            found[image_key(image)] = _annotation(row.data)
    return found


def _annotation(data: Mapping[str, Any]) -> ImageAnnotation:
    captions = data.get("captions", data.get("caption")) or []
    captions = [captions] if isinstance(captions, str) else [c for c in captions if isinstance(c, str)]
    objects = []
    for item in data.get("instances") or []:
        label, box = (item.get("category"), item.get("bbox")) if isinstance(item, dict) else (None, None)
        if isinstance(label, str) and label:
            whole = isinstance(box, list) and len(box) == 4
            objects.append(Object(label=label, box=tuple(map(float, box)) if whole else None))  # type: ignore[arg-type]
    return ImageAnnotation(captions=captions, objects=objects)


def unique(asked: Sequence[Asked]) -> tuple[list[Asked], list[SuiteOutcome]]:
    """Every question once, and an outcome for each that stands in the file again."""
    seen: set[str] = set()
    kept, again = [], []
    for one in asked:
        if one.key in seen:
            again.append(one.failed("asked again"))
        else:
            kept.append(one)
        seen.add(one.key)
    return kept, again
