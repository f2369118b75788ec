"""VLSafe (of LVLM_NLF): COCO photos with captions, COCO-80 objects and adversarial queries.

`path` holds `*.jsonl` (rows `image_id, caption, query`), `images/` and `objects.json` (image id →
labels). The photos teach and test all three criteria: a description (honesty), two balanced
questions about objects (helpfulness), and the query (harmlessness), which is asked, never taught.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dress.data.images import open_image
from dress.data.index import MAX_MEMBER_BYTES
from dress.data.shards import Sample
from dress.data.sources.importing import (
    SPLITS,
    Line,
    Rows,
    SourceError,
    Splits,
    Track,
    read_lines,
    read_whole,
)
from dress.mentions import COCO80, a, mentions, verb
from dress.record import (
    Criterion,
    Dialogue,
    ImageAnnotation,
    ImageRef,
    Object,
    Record,
    Turn,
    describe,
)
from dress.seeding import rng_for

DESCRIBE = ("Describe the picture.", "What do you see?", "Tell me what is in the picture.")
HELD_OUT = 100
HELD_OUT_SHARE = 7
"""One photo in so many is held out for `eval`, at most `HELD_OUT`."""


class _Row(BaseModel):
    """A row of the publisher; further fields are left alone."""

    model_config = ConfigDict(extra="ignore", strict=True)

    # A plain file name: it becomes a path below images/ and the key of a sample.
    image_id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}\.(?i:jpg|jpeg|png|webp)$")
    caption: str
    query: str
    reference: str | None = None  # a good answer to the query (the alignment file has them)


@dataclass
class _Photo:
    """One image with everything that the rows say about it."""

    id: str
    path: Path
    sha256: str
    objects: list[str]
    captions: list[str] = field(default_factory=list)
    queries: dict[str, str | None] = field(default_factory=dict)  # query → reference

    @property
    def key(self) -> str:
        return f"coco-{self.id.rpartition('.')[0]}"

    @property
    def present(self) -> set[str]:
        return {*self.objects, *(label for caption in self.captions for label in mentions(caption))}


class _Rejected(ValueError):
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class VLSafe:
    """See `importing.Source`."""

    name = "vlsafe"
    version = 1

    def inputs(self, path: Path) -> list[Path]:
        """The `*.jsonl`, `objects.json` and all of `images/`.

        Raises:
            SourceError: one of them is missing.
        """
        tables = sorted(path.glob("*.jsonl"))
        for there, what in (
            (bool(tables), "*.jsonl"),
            ((path / "objects.json").is_file(), "objects.json"),
            ((path / "images").is_dir(), "images/"),
        ):
            if not there:
                raise SourceError(f"{path}: expected {what} in it (source=vlsafe), found none")
        images = sorted(file for file in (path / "images").iterdir() if file.is_file())
        return [*tables, path / "objects.json", *images]

    def samples(self, path: Path, rows: Rows, track: Track[Any]) -> Splits:
        """See `importing.Source`."""
        photos = _photos(path, rows, track)
        held_out = _held_out([photo.id for photo in photos])
        frequent = Counter(label for photo in photos for label in photo.objects)
        taught = [photo for photo in photos if photo.id not in held_out]
        kept = [photo for photo in photos if photo.id in held_out]
        return {
            split: [partial(_sample, p, split, frequent) for p in (kept if split == "eval" else taught)]
            for split in SPLITS
        }


def _held_out(ids: Sequence[str]) -> set[str]:
    """The images with the smallest hashes: which they are does not depend on the rows' order."""
    number = min(HELD_OUT, max(len(ids) // HELD_OUT_SHARE, 1 if len(ids) > 1 else 0))
    return set(sorted(ids, key=lambda id_: hashlib.sha256(id_.encode()).digest())[:number])


def _photos(path: Path, rows: Rows, track: Track[Any]) -> list[_Photo]:
    """One per image, in order of first appearance; what cannot be used goes to `rows`."""
    objects = read_whole(path / "objects.json")
    if not isinstance(objects, dict):
        raise SourceError(f"{path / 'objects.json'}: expected {{image id: [labels]}}, got {objects!r:.80}")
    lines = [line for table in sorted(path.glob("*.jsonl")) for line in read_lines(table, rows)]
    photos: dict[str, _Photo | _Rejected] = {}
    keys: dict[str, str] = {}
    seen: set[tuple[str, str, str]] = set()
    for line, value in track(lines, "check rows and images"):
        try:
            row = _row(value, line)
            if (row.image_id, row.caption, row.query) in seen:
                raise _Rejected("duplicate row", f"{row.image_id}: the same row stands above")
            if row.image_id not in photos:
                photos[row.image_id] = _photo(path, row.image_id, objects, keys)
            photo = photos[row.image_id]
            if isinstance(photo, _Rejected):
                raise photo
        except _Rejected as error:
            rows.reject(line, error.reason, error.detail)
            continue
        seen.add((row.image_id, row.caption, row.query))
        if row.caption not in photo.captions:
            photo.captions.append(row.caption)
        photo.queries[row.query] = row.reference or photo.queries.get(row.query)
    return [photo for photo in photos.values() if isinstance(photo, _Photo)]


def _row(value: Any, line: Line) -> _Row:
    """Raises _Rejected: a field is missing, of another type, no text, or empty."""
    try:
        row = _Row.model_validate(value)
    except ValidationError as error:
        raise _Rejected("bad field", describe(error)) from None
    for name, text in row:
        # Half of a surrogate pair is JSON, but no UTF-8.
        if any("\ud800" <= letter <= "\udfff" for letter in text or ""):
            raise _Rejected("broken text", f"{name}: expected Unicode text, got {text!a:.80}")
    for name in ("caption", "query"):
        text = " ".join(getattr(row, name).split())
        if not text:
            raise _Rejected("empty text", f"{name}: expected text, got {getattr(row, name)!r}")
        setattr(row, name, text)
    return row


def _photo(path: Path, id_: str, objects: dict[str, Any], keys: dict[str, str]) -> _Photo | _Rejected:
    """The photo, or why no row about it can be used."""
    file = path / "images" / id_
    if not file.is_file():
        return _Rejected("image missing", f"{id_}: expected {file}, found none")
    if file.stat().st_size > MAX_MEMBER_BYTES:
        return _Rejected("image unusable", f"{id_}: expected at most {MAX_MEMBER_BYTES} bytes")
    data = file.read_bytes()
    try:
        open_image(data, str(file))
    except ValueError as error:
        return _Rejected("image unusable", str(error))
    labels = objects.get(id_)
    if not isinstance(labels, list):
        got = "no entry" if id_ not in objects else repr(labels)[:80]
        expected = "expected a list of labels in objects.json"
        return _Rejected("objects missing", f"{id_}: {expected}, got {got}")
    unknown = [label for label in labels if label not in COCO80]
    if unknown:
        return _Rejected("unknown object", f"{id_}: expected COCO-80 labels, got {unknown!r:.80}")
    photo = _Photo(id_, file, hashlib.sha256(data).hexdigest(), list(dict.fromkeys(labels)))
    if keys.setdefault(photo.key, id_) != id_:
        return _Rejected("key taken", f"{id_}: {keys[photo.key]} has the key {photo.key} already")
    return photo


def _sample(photo: _Photo, split: str, frequent: Counter[str]) -> Sample:
    data = photo.path.read_bytes()
    if hashlib.sha256(data).hexdigest() != photo.sha256:
        raise SourceError(f"{photo.path}: changed meanwhile; run the same command again")
    record = Record(
        key=photo.key,
        source="vlsafe",
        image=ImageRef(id=photo.id, sha256=photo.sha256),
        annotation=ImageAnnotation(
            captions=photo.captions,
            objects=[Object(label=label) for label in photo.objects],
            extra={"vocabulary": "coco80"},  # all of these that are there are listed
        ),
        dialogues=_dialogues(photo, split, frequent),
    )
    return record, data


def _dialogues(photo: _Photo, split: str, frequent: Counter[str]) -> list[Dialogue]:
    """sft: answered. prompts, eval: the same and the queries, open, with references."""
    if split == "align":
        return []
    rng = rng_for("vlsafe", photo.key)
    taught = split == "sft"
    description = {"kind": "description"}
    user = rng.choice(DESCRIBE)
    captions = photo.captions if taught else photo.captions[:1]
    dialogues = [_dialogue("honesty", user, caption, description, taught) for caption in captions]
    for label, there in _asked_about(photo, frequent):
        is_, thing = verb(label), a(label)
        answer = f"Yes, there {is_} {thing}." if there else f"No, there {is_} no {label}."
        request = {"kind": "question", "object": label}
        user = f"{is_.capitalize()} there {thing} in the picture?"
        dialogues.append(_dialogue("helpfulness", user, answer, request, taught))
    if not taught:
        for query, good in photo.queries.items():
            dialogues.append(_dialogue("harmlessness", query, good, {"kind": "harmful"}, taught))
    return dialogues


def _asked_about(photo: _Photo, frequent: Counter[str]) -> list[tuple[str, bool]]:
    """One object that is there and one that is not, in random order; none where no object is known.

    The absent one is drawn as often as it occurs in other photos: no label gives the answer away.
    """
    if not photo.objects:
        return []
    rng = rng_for("vlsafe", photo.key, "questions")
    present = photo.present
    absent = [label for label in COCO80 if label not in present]
    weights = [frequent[label] for label in absent]
    there = (rng.choice(photo.objects), True)
    missing = (rng.choices(absent, weights if any(weights) else None)[0], False)
    return rng.sample([there, missing], 2)


def _dialogue(criterion: Criterion, user: str, good: str | None, request: dict[str, str], taught: bool) -> Dialogue:
    return Dialogue(
        criterion=criterion,
        reference=None if taught else good,
        turns=[Turn(user=user, assistant=good if taught else None)],
        extra={"request": request},
    )
