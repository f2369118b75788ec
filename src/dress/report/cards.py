"""A record on a page: its picture, and the conversations about it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image

from dress.data.images import open_image
from dress.record import Record, RecordError

LARGE, SMALL = 320, 240
"""Pixels: a large picture is shrunk to the first, a small one enlarged to about the second."""


@dataclass(frozen=True)
class Picture:
    """A picture for a page: its data URI, its size there, and what it shows in words."""

    source: str
    width: int
    height: int
    words: str
    enlarged: bool


@dataclass(frozen=True)
class Comment:
    """What is said about an answer; shown only in its `view`, where it has one (see `facets`)."""

    title: str
    text: str
    view: int | None = None


@dataclass(frozen=True)
class Answer:
    """An answer with its ratings (None: not rated) and comments; `weight` as of a table's head; its `view` marks it."""

    title: str
    text: str
    ratings: Sequence[int | None]
    comments: Sequence[Comment] = ()
    weight: str = "base"
    view: int | None = None


@dataclass(frozen=True)
class Exchange:
    """A question and the answers to it; the question is empty where it stands above already."""

    question: str
    answers: Sequence[Answer]


@dataclass(frozen=True)
class Conversation:
    """Exchanges in their order; `kind` says what they are about. One with a `view` goes on below another one."""

    kind: str
    exchanges: Sequence[Exchange]
    comments: Sequence[Comment] = ()
    view: int | None = None


@dataclass(frozen=True)
class Card:
    """A record.

    Attributes:
        key: stands below the picture.
        picture: or why there is none.
        conversations: about it.
        captions: of the picture.
        folded: conversations that are shown only when asked for.
        pairs: two conversations side by side, for each view.
    """

    key: str
    picture: Picture | str
    conversations: Sequence[Conversation]
    captions: Sequence[str] = ()
    folded: Sequence[Conversation] = field(default=())
    pairs: Sequence[tuple[Conversation, Conversation]] = field(default=())


def picture(record: Record, data: bytes | None, largest: int = LARGE) -> Picture | str:
    """The record's picture (JPEG; PNG where it is small) of at most so many pixels, or why there is none."""
    if data is None:
        return "no picture"
    try:
        image = open_image(data, record.key)
    except RecordError:
        return "the picture cannot be read"
    factor = max(1, SMALL // max(image.size))
    image.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    kind = "png" if factor > 1 else "jpeg"
    buffer = io.BytesIO()
    image.save(buffer, format=kind, quality=85)
    source = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    labels = ", ".join(thing.label for thing in record.annotation.objects) or "not annotated"
    return Picture(
        source, image.width * factor, image.height * factor, f"picture of {record.key}: {labels}", factor > 1
    )
