"""Parts of one image become one record; its key."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from dress.record import ImageAnnotation, ImageRef, Object, Record
from dress.sources.protocol import Part, Place, RowError

MAX_KEY_BYTES = 80
"""A tar header has room for 100 bytes of name, extension included."""


def group_name(part: Part, place: Place) -> str:
    """What parts are merged by: equal for parts of one record, and for no others."""
    if part.group is not None:
        kind, name = "group", part.group
    elif part.image is not None:
        kind, name = "image", image_of(part).id
    else:
        kind, name = "row", f"{place.file}:{place.array}:{place.number}"
    return f"{part.split or ''}:{kind}:{name}"


def image_of(part: Part) -> ImageRef:
    """The part's image as a reference."""
    assert part.image is not None
    return ImageRef(id=part.image) if isinstance(part.image, str) else part.image


def derived_key(part: Part, place: Place) -> str:
    """A record's key, made of the image's name or of where its first row stands."""
    if part.image is not None:
        name = PurePosixPath(image_of(part).id)
        text = "-".join((*name.parts[:-1], name.stem))
    else:
        stem = "-".join(filter(None, (PurePosixPath(place.file).stem, place.array)))
        text = f"{stem}-{place.number:08d}"
    key = re.sub(r"[^\w-]+", "-", text).strip("-_") or "record"
    return key if len(key.encode()) <= MAX_KEY_BYTES else distinct(key, text)


def distinct(key: str, by: str) -> str:
    """Another key of the same beginning."""
    start = key.encode()[: MAX_KEY_BYTES - 9].decode(errors="ignore")
    return f"{start}-{hashlib.sha256(by.encode()).hexdigest()[:8]}"


def merged(parts: Iterable[Part], key: str, source: str) -> Record:
    """One record of all that is said about one image.

    Args:
        parts: in row order, at least one.
        key: the record's.
        source: of parts that name none.

    Raises:
        RowError: they name two images.
        ValidationError: the record does not fit.
    """
    image: ImageRef | None = None
    about_image: dict[str, Any] = {}
    captions: dict[str, None] = {}
    objects: list[Object] = []
    sources: dict[str, None] = {}
    about: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    dialogues = []
    for part in parts:
        if part.image is not None:
            ref = image_of(part)
            if image is not None and ref.id != image.id:
                raise RowError("two images", f"expected one image, got {image.id} and {ref.id}")
            image = image or ref
            _unite(about_image, ref.extra)
        dialogues += part.dialogues
        captions |= dict.fromkeys(part.annotation.captions)
        objects += [thing for thing in part.annotation.objects if thing not in objects]
        _unite(about, part.annotation.extra)
        _unite(extra, part.extra)
        sources[part.source or source] = None
    if image is not None:
        image = image.model_copy(update={"extra": about_image})
    annotation = ImageAnnotation(captions=list(captions), objects=objects, extra=about)
    return Record(
        key=key, source=", ".join(sources), image=image, annotation=annotation, dialogues=dialogues, extra=extra
    )


def _unite(fields: dict[str, Any], more: dict[str, Any]) -> None:
    """Add what is new; what differs goes to the list `merged`, so that nothing is lost."""
    differences = {name: value for name, value in more.items() if name in fields and fields[name] != value}
    fields.update({name: value for name, value in more.items() if name not in fields})
    if differences and differences not in fields.setdefault("merged", []):
        fields["merged"].append(differences)
