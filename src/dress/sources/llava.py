"""LLaVA-Instruct: `[{"id", "image", "conversations": [{"from": "human" | "gpt", "value"}]}]`.

The 150k files, mix665k (rows without an image, several rounds, `model`), and anything of this shape as JSON or
JSON lines; `instruction` and `output` in place of `conversations` make one round. `<image>` stands first or last
in the first human text and is taken out with the line break or blank beside it; texts stay as they stand.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from dress.record import Dialogue, Turn
from dress.sources.fields import IMAGE_MARK, plain_path, without_mark
from dress.sources.protocol import Part, Place, RowError, RowFile, Source
from dress.sources.row_files import row_files_of

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


class _Message(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    from_: str = Field(alias="from")
    value: str


class _Row(BaseModel):
    """A row of the publisher; further fields (`id`, `model` …) are kept."""

    model_config = ConfigDict(extra="allow", strict=True)

    image: Any = None
    conversations: list[_Message] = Field(min_length=1)


class LLaVA(Source):
    """See `protocol.Source`."""

    name = "llava"
    version = 2
    splits = ("sft", "prompts", "eval")
    usual = ("sft", "eval")

    def row_files(self, path: Path) -> list[RowFile]:
        """A file, or all `*.json` and `*.jsonl` of a folder."""
        return row_files_of(path, "*.json", "*.jsonl")

    def parts(self, value: Any, place: Place) -> Iterable[Part]:
        """One part a row; see `protocol.Source.parts`."""
        row = _Row.model_validate(_with_conversations(value))
        if (row.model_extra or {}).get("video"):
            raise RowError("video", "video: expected an image, got a video")
        image = _image(row.image)
        extra = dict(row.model_extra or {})
        messages, system = row.conversations, None
        if ROLES.get(messages[0].from_) == "system":
            system, messages = messages[0].value, messages[1:]
        tokens = [number for number, text in enumerate(messages) for _ in range(text.value.count(IMAGE_MARK))]
        if len(tokens) > (image is not None):
            what = "several images" if image else "no image named"
            raise RowError(
                what, f"conversations: expected {IMAGE_MARK} at most once and with an image, got {len(tokens)}"
            )
        if tokens and not messages[tokens[0]].value.startswith(IMAGE_MARK):
            extra["image_token"] = "last" if messages[tokens[0]].value.endswith(IMAGE_MARK) else "inside"
        if tokens and tokens[0] > 0:
            extra["image_token"] = f"in text {tokens[0]}"
        yield Part(image=image, dialogues=[Dialogue(system=system, turns=_turns(messages), extra=extra)])


def _with_conversations(value: Any) -> Any:
    """A row of `instruction` and `output`, as one round."""
    if not isinstance(value, dict) or "conversations" in value or not {"instruction", "output"} <= value.keys():
        return value
    rest = {name: inner for name, inner in value.items() if name not in ("instruction", "output")}
    messages = [{"from": "human", "value": value["instruction"]}, {"from": "gpt", "value": value["output"]}]
    return rest | {"conversations": messages}


def _image(image: Any) -> str | None:
    if isinstance(image, list):
        if len(image) != 1:
            raise RowError("several images", f"image: expected one name, got {len(image)}")
        image = image[0]
    return None if image is None else plain_path(image)


def _turns(messages: list[_Message]) -> list[Turn]:
    """Rounds of a human text and its answer; the last answer may be missing."""
    turns = []
    for number, text in enumerate(messages):
        expected = ("user", "assistant")[number % 2]
        if ROLES.get(text.from_) != expected:
            raise RowError("bad order", f"conversations[{number}].from: expected {expected}, got {text.from_!r:.80}")
        plain = without_mark(text.value)
        if not plain.strip():
            raise RowError("empty text", f"conversations[{number}].value: expected text, got {text.value!r:.80}")
        if expected == "user":
            turns.append(Turn(user=plain, extra=text.model_extra or {}))
        else:
            turns[-1].assistant = plain
            turns[-1].extra.update({f"answer_{name}": value for name, value in (text.model_extra or {}).items()})
    return turns
