"""When two texts, or two images, are the same."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from pathlib import PurePosixPath

from dress.record import Dialogue, ImageRef

_COCO = re.compile(r"(?:COCO_)?(?:train|val|test)20\d\d_(\d{12})")


def normalised(text: str) -> str:
    """The words of a text: without case, punctuation, kind of quotes and width of letters; may be empty."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(re.findall(r"\w+", folded))


def digest(*parts: str) -> bytes:
    """16 bytes that stand for texts; a million of them fit into memory."""
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def questions(dialogue: Dialogue) -> Iterator[str]:
    """The user's texts that are not the advice given on the answer before."""
    advice: set[str | None] = set()
    for turn in dialogue.turns:
        if turn.user not in advice:
            yield turn.user
        advice = {feedback.refinement for feedback in turn.feedback}


def image_name(image: ImageRef) -> str:
    """What names an image in any set: its id without folder and extension; of COCO photos the number alone."""
    stem = PurePosixPath(image.id).stem or image.id
    coco = _COCO.fullmatch(stem)
    return coco[1] if coco else stem
