"""Conversations as lists of messages: `{role, content}` or `{from, value}`."""

from __future__ import annotations

import json
from typing import Any

from dress.record import Turn
from dress.sources.protocol import RowError

IMAGES, VIDEOS = ("image", "image_url", "input_image"), ("video", "video_url", "input_video")
"""Types of the parts of a message that are no text."""

ROLES = {
    "human": "user", "user": "user", "question": "user", "gpt": "assistant", "assistant": "assistant",
    "model": "assistant", "bot": "assistant", "answer": "assistant", "system": "system",
}  # fmt: skip


def turns_of(value: Any, field: str) -> tuple[str | None, list[Turn]]:
    """The system text and the turns of a conversation; the last answer may be missing.

    Args:
        value: a list of messages, also as a JSON text.
        field: names it in errors.

    Raises:
        RowError: no such list, an unknown role, roles out of turn, a message without text, several images or a video.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise RowError("bad field", f"{field}: expected a list of messages, got {value!r:.80}") from None
    if not isinstance(value, list) or not value:
        raise RowError("bad field", f"{field}: expected a list of messages, got {value!r:.80}")
    system, turns = None, list[Turn]()
    _refuse_pictures(value, field)
    for number, message in enumerate(value):
        where = f"{field}[{number}]"
        role, text = _message(message, where)
        if role == "system" and number == 0:
            system = text
            continue
        expected = "assistant" if turns and turns[-1].assistant is None else "user"
        if role != expected:
            raise RowError("bad order", f"{where}: expected a message of {expected}, got {message!r:.80}")
        rest = {name: one for name, one in message.items() if name not in ("role", "from", "content", "value")}
        if role == "user":
            turns.append(Turn(user=text, extra=rest))
        else:
            turns[-1].assistant = text
            turns[-1].extra.update({f"answer_{name}": one for name, one in rest.items()})
    if not turns:
        raise RowError("no question", f"{field}: expected a message of user, got {value!r:.80}")
    return system, turns


def _message(message: Any, where: str) -> tuple[str, str]:
    if not isinstance(message, dict):
        raise RowError("bad field", f"{where}: expected an object with role and content, got {message!r:.80}")
    role = message.get("role", message.get("from"))
    text = message.get("content", message.get("value"))
    if isinstance(text, list):  # parts: text, and marks of images
        texts = [part.get("text") for part in text if isinstance(part, dict) and part.get("type", "text") == "text"]
        text = "".join(one for one in texts if isinstance(one, str))
    if not isinstance(role, str) or ROLES.get(role.lower()) is None:
        raise RowError("bad field", f"{where}: expected a role of {', '.join(ROLES)}, got {role!r:.80}")
    if not isinstance(text, str) or not text.strip():
        raise RowError("empty text", f"{where}: expected text, got {text!r:.80}")
    return ROLES[role.lower()], text


def _refuse_pictures(messages: list[Any], field: str) -> None:
    """Raises RowError: the parts of messages hold more than one image, or a video."""
    contents = [one.get("content", one.get("value")) for one in messages if isinstance(one, dict)]
    kinds = [
        part.get("type") for parts in contents if isinstance(parts, list) for part in parts if isinstance(part, dict)
    ]
    if any(kind in VIDEOS for kind in kinds):
        raise RowError("video", f"{field}: expected at most one image, got a video")
    if (number := sum(kind in IMAGES for kind in kinds)) > 1:
        raise RowError("several images", f"{field}: expected at most one image, got {number}")
