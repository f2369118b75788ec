"""What an OpenAI-compatible client asks: messages become a dialogue, and what has no meaning here is refused."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dress.record import Dialogue, Turn

MAX_BYTES = 48 * 2**20
"""Largest body of a request: a photo of 32 MB in base64."""
DATA_URI = "data:image/"
"""How the address of an image that holds it begins."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")


class ImageURL(_Part):
    """Where an image is: in the request itself."""

    url: str


class ContentPart(_Part):
    """A piece of a message."""

    type: Literal["text", "image_url"]
    text: str = ""
    image_url: ImageURL | None = None


class Message(_Part):
    """One message."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[ContentPart] | None = None


class StreamOptions(_Part):
    """What a stream says beside the answer."""

    include_usage: bool = False


class CompletionRequest(_Part):
    """The body of `POST /v1/chat/completions`; fields that are not named here have no effect and are passed over."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: int = 0
    n: Literal[1] = 1
    tools: None = None
    functions: None = None
    logprobs: Literal[False] | None = None
    response_format: None = None
    stop: None = None

    @property
    def most_tokens(self) -> int | None:
        """Of the answer; None where the client leaves it to the model."""
        return self.max_completion_tokens or self.max_tokens


@dataclass(frozen=True)
class Question:
    """What is to be answered.

    Attributes:
        dialogue: its last turn is open.
        picture: bytes of its image's file; None for none.
    """

    dialogue: Dialogue
    picture: bytes | None

    @property
    def advised(self) -> bool:
        """Whether an answer stands before the open turn."""
        return len(self.dialogue.turns) > 1


def question_of(messages: list[Message]) -> Question:
    """The dialogue that messages are.

    Raises:
        ValueError: user and assistant do not take turns, the last is not the user's, an image stands elsewhere than in
            the first user message, is no data URI, or there are two.
    """
    system: str | None = None
    turns: list[Turn] = []
    pictures: list[bytes] = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        text, images = _content(message, where)
        if message.role in ("system", "developer"):
            if number:
                raise ValueError(f"{where}: expected a {message.role} message in the first place only")
            system = text
        elif message.role == "user":
            if turns and turns[-1].assistant is None:
                raise ValueError(f"{where}: expected an assistant's message between two of the user")
            if images and (turns or len(images) > 1):
                raise ValueError(f"{where}: expected one image, in the first user message, got another")
            if not text:
                raise ValueError(f"{where}: expected a text, got none")
            pictures += images
            turns.append(Turn(user=text))
        else:
            if not turns or turns[-1].assistant is not None:
                raise ValueError(f"{where}: expected a user's message before an assistant's")
            turns[-1] = turns[-1].model_copy(update={"assistant": text})
    if not turns or turns[-1].assistant is not None:
        raise ValueError("messages: expected a user's message at the end")
    return Question(Dialogue(system=system, turns=turns), pictures[0] if pictures else None)


def messages_of(dialogue: Dialogue, picture: str | None) -> list[dict[str, Any]]:
    """The messages that a dialogue with an open last turn is: the other way round.

    Args:
        dialogue: whose.
        picture: the data URI of its image.
    """
    messages: list[dict[str, Any]] = []
    if dialogue.system is not None:
        messages.append({"role": "system", "content": dialogue.system})
    for number, turn in enumerate(dialogue.turns):
        content: Any = turn.user
        if number == 0 and picture is not None:
            content = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": turn.user}]
        messages.append({"role": "user", "content": content})
        if turn.assistant is not None:
            messages.append({"role": "assistant", "content": turn.assistant})
    return messages


def _content(message: Message, where: str) -> tuple[str, list[bytes]]:
    if message.content is None or isinstance(message.content, str):
        return message.content or "", []
    texts = [part.text for part in message.content if part.type == "text"]
    images = [_image(part.image_url, where) for part in message.content if part.type == "image_url"]
    if images and message.role != "user":
        raise ValueError(f"{where}: expected images in a user's message only")
    return "".join(texts), images


def _image(image: ImageURL | None, where: str) -> bytes:
    """The bytes in a data URI; nothing is fetched from anywhere."""
    url = "" if image is None else image.url
    head, comma, data = url.partition(",")
    if not comma or not head.startswith(DATA_URI) or not head.endswith(";base64"):
        raise ValueError(f"{where}: image_url: expected data:image/…;base64,…, got {url[:60]!r}; no address is fetched")
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise ValueError(f"{where}: image_url: expected base64, got what is none ({error})") from None
