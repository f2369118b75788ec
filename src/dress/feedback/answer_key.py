"""The name of an answer: equal for equal texts about the same picture, whoever gave it and wherever it stands."""

from __future__ import annotations

import hashlib
import json

from dress.record import Dialogue


def answer_key(picture: bytes | None, dialogue: Dialogue) -> str:
    """SHA-256, in hex, of a picture's file, the system text, and all texts of a dialogue up to its last answer.

    Args:
        picture: the image file's bytes; None for a dialogue without one.
        dialogue: its last turn has the answer.
    """
    return key_of(None if picture is None else hashlib.sha256(picture).hexdigest(), dialogue)


def key_of(picture: str | None, dialogue: Dialogue) -> str:
    """The same, where the SHA-256 of the picture's file is known."""
    texts = [[turn.user, turn.assistant] for turn in dialogue.turns]
    content = json.dumps([picture, dialogue.system, texts], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()
