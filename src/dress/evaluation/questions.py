"""What a judged suite asks: questions about records, with the images where there are some."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dress.evaluation.outcomes import Outcome
from dress.evaluation.rows import FileRow, image_key, read_mapping, read_rows
from dress.record import Criterion, Dialogue, ImageAnnotation, ImageRef, Object, Record, Turn


@dataclass(frozen=True)
class Question:
    """One question.

    `item` names it among all; `number` is its publisher's question_id; `image` the file that is shown,
    None where there is none to show; `facts` are known beforehand and join those of the judge; `where`
    is its place in a file.
    """

    item: str
    category: str
    record: Record
    dialogue: Dialogue
    number: str | None = None
    image: Path | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    where: str | None = None

    @property
    def user(self) -> str:
        """What is asked."""
        return self.dialogue.turns[-1].user

    def outcome(self, failed: str | None = None, facts: Mapping[str, Any] | None = None, **more: Any) -> Outcome:
        """What came of it: `failed` or `facts`, and further fields of the outcome."""
        image = self.record.image
        return Outcome(
            item=self.item, key="" if image is None else image_key(image.id), category=self.category, failed=failed,
            facts={**self.facts, **(facts or {})}, user=self.user, where=self.where,
            reference=self.dialogue.reference, **more,
        )  # fmt: skip


@dataclass(frozen=True)
class Background:
    """What is known of a question beside its words.

    `annotation` is of its image; `criterion` and `reference` (a good answer) are the dialogue's; `kind` is
    description, question, harmful or harmless: what the rules take it for.
    """

    annotation: ImageAnnotation | None = None
    criterion: Criterion | None = None
    reference: str | None = None
    kind: str | None = None


def question(
    item: str, category: str, image: str | None, user: str, images: Images, background: Background | None = None,
    **more: Any,
) -> Question:  # fmt: skip
    """A question about an image.

    Args:
        item: its name.
        category: the name of its category.
        image: id of the image, or None.
        user: what is asked.
        images: where image files lie.
        background: what is known beside it.
        more: further fields of `Question`.
    """
    known = background or Background()
    name = "".join(c if c.isalnum() or c in "-_" else "_" for c in (image or item)).lstrip("-") or "x"
    record = Record(
        key=name,
        image=ImageRef(id=image) if image is not None else None,
        annotation=known.annotation or ImageAnnotation(),
    )
    extra = {"request": {"kind": known.kind}} if known.kind is not None else {}
    turns = [Turn(user=user)]
    dialogue = Dialogue(criterion=known.criterion, reference=known.reference, turns=turns, extra=extra)
    return Question(item, category, record, dialogue, image=images.get(image), **more)


class Images:
    """Image files of a folder, found however an image is named.

    Args:
        folder: None holds no image.

    Raises:
        FileNotFoundError: no such folder.
    """

    def __init__(self, folder: str | None) -> None:
        self.has_folder = folder is not None
        self._files: dict[str, Path] = {}
        if folder is not None:
            if not Path(folder).is_dir():
                raise FileNotFoundError(f"images={folder}: expected a folder, found none")
            with os.scandir(folder) as entries:
                self._files = {image_key(entry.name): Path(entry.path) for entry in entries if entry.is_file()}

    def get(self, image: str | None) -> Path | None:
        """The file of an image; None without one."""
        return None if image is None else self._files.get(image_key(image))

    def names(self) -> set[str]:
        """Of all images (see `rows.image_key`)."""
        return set(self._files)

    def lacks(self, image: str | None) -> bool:
        """Whether this image ought to be there and is not."""
        return self.has_folder and image is not None and self.get(image) is None


def read_listed(setting: str, path: str, field_name: str) -> list[FileRow]:
    """Rows of a file; or, where it is one object as VQA has it, of its list `field_name`."""
    content = read_mapping(setting, path)
    if isinstance(content, dict) and isinstance(content.get(field_name), list):
        places = ((f"{Path(path).name}[{n}]", row) for n, row in enumerate(content[field_name]))
        return [
            FileRow(place, row) if isinstance(row, dict) else FileRow(place, {}, "not an object")
            for place, row in places
        ]
    return read_rows(setting, path)


def read_annotations(path: str | None) -> dict[str, ImageAnnotation]:
    """What is known of images: rows of `image`, `captions` (or `caption`) and perhaps `instances` with boxes.

    This is the form of LLaVA-Eval's `caps_boxes` and of LLaVA-Bench's `context` files.
    """
    if path is None:
        return {}
    rows = ((row.text("image", "image_id", "id"), row) for row in read_rows("context", path) if row.damage is None)
    return {image_key(image): _annotation(row.data) for image, row in rows if image is not None}


def _annotation(data: Mapping[str, Any]) -> ImageAnnotation:
    captions = data.get("captions", data.get("caption")) or []
    captions = [captions] if isinstance(captions, str) else [c for c in captions if isinstance(c, str)]
    objects = []
    for item in data.get("instances") or []:
        label, box = (item.get("category"), item.get("bbox")) if isinstance(item, dict) else (None, None)
        if isinstance(label, str) and label:
            boxed = isinstance(box, list) and len(box) == 4
            objects.append(Object(label=label, box=tuple(map(float, box)) if boxed else None))  # type: ignore[arg-type]  # `boxed`: four numbers
    return ImageAnnotation(captions=captions, objects=objects)


def unique(questions: Sequence[Question]) -> tuple[list[Question], list[Outcome]]:
    """Every question once, and an outcome for each that stands in the file again."""
    first: dict[str, Question] = {}
    again = [one.outcome("asked again") for one in questions if first.setdefault(one.item, one) is not one]
    return list(first.values()), again
