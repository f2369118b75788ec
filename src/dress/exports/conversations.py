"""`format=llava` and `format=messages`: answered dialogues as conversations, for others' training code.

Neither has a field for ratings and critiques. A refinement is there as the user's text that it became.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dress.exports.writing import IMAGES, NO_DIALOGUES, Writing, answered, split_file
from dress.record import Turn
from dress.sources.fields import IMAGE_MARK

Row = Callable[[str, str | None, str | None, Sequence[Turn]], dict[str, Any]]
"""Of id, image, system text and turns."""


def write_llava(to: Writing) -> None:
    """LLaVA's instruct JSON: an array of `id, image, conversations [{from, value}]` per split."""
    _write(to, "json", _llava)


def write_messages(to: Writing) -> None:
    """Chat messages as Transformers' templates and TRL take them: JSON lines of `id, messages, images`."""
    _write(to, "jsonl", _messages)


def _write(to: Writing, extension: str, row: Row) -> None:
    for split, _, record, data in to.samples():
        missing = record.image is not None and data is None and to.images
        if not record.dialogues:
            to.no_place[NO_DIALOGUES] += 1
        for number, dialogue in enumerate(record.dialogues):
            turns = answered(dialogue)
            texts = [dialogue.system or "", *(text for turn in turns for text in (turn.user, turn.assistant or ""))]
            if not turns:
                to.leave_out(split, record, number, "no answer")
            elif missing:
                to.leave_out(split, record, number, "image missing")
            elif any(IMAGE_MARK in text for text in texts):
                to.leave_out(split, record, number, f"{IMAGE_MARK} stands in a text")
            else:
                usual = record.key if len(record.dialogues) == 1 else f"{record.key}-{number}"
                id_ = dialogue.extra.get("id", usual)  # as LLaVA's files had it
                to.write(split_file(split, extension), row(str(id_), to.image(record, data), dialogue.system, turns))
                to.no_place["questions without answer at the end"] += len(dialogue.turns) > len(turns)
                to.no_place["feedback on answers"] += sum(len(turn.feedback) for turn in turns)


def _llava(id_: str, image: str | None, system: str | None, turns: Sequence[Turn]) -> dict[str, Any]:
    rounds: list[dict[str, Any]] = [] if system is None else [{"from": "system", "value": system}]
    for number, turn in enumerate(turns):
        mark = f"{IMAGE_MARK}\n" if image is not None and number == 0 else ""
        rounds += [{"from": "human", "value": mark + turn.user}, {"from": "gpt", "value": turn.assistant}]
    return {"id": id_} | ({} if image is None else {"image": image}) | {"conversations": rounds}


def _messages(id_: str, image: str | None, system: str | None, turns: Sequence[Turn]) -> dict[str, Any]:
    messages: list[dict[str, Any]] = []
    if system is not None:
        messages.append({"role": "system", "content": [{"type": "text", "text": system}]})
    for number, turn in enumerate(turns):
        pictures = [{"type": "image"}] if image is not None and number == 0 else []
        messages.append({"role": "user", "content": [*pictures, {"type": "text", "text": turn.user}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": turn.assistant}]})
    return {"id": id_, "messages": messages, "images": [] if image is None else [f"{IMAGES}/{image}"]}
