"""What names an answer, so that people's words on it are found again wherever it stands."""

from __future__ import annotations

import hashlib
import json

from dress.record import Dialogue


def answer_key(picture: bytes | None, dialogue: Dialogue) -> str:
    """The name of a dialogue's last answer: equal where picture, system text and all texts up to it are.

    Journals hold it: its form stays.

    Args:
        picture: the bytes of the image file, as they are stored; None where there is no image.
        dialogue: its last turn holds the answer; cut off what follows it.

    Returns:
        A sha256, in hexadecimal digits.

    Raises:
        ValueError: the last turn has no answer.
    """
    return key_of(None if picture is None else hashlib.sha256(picture).hexdigest(), dialogue)


def key_of(picture: str | None, dialogue: Dialogue) -> str:
    """The same, where the sha256 of the image file is known."""
    if dialogue.turns[-1].assistant is None:
        raise ValueError(f"answer_key: expected an answer to {dialogue.turns[-1].user!r:.80}, got none")
    turns = [[turn.user, turn.assistant] for turn in dialogue.turns]
    content = {"picture": picture, "system": dialogue.system, "turns": turns}
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
