"""What is asked of a language model and what came of it."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

Message = dict[str, str]
"""`role` (system, user, assistant) and `content`."""


@dataclass(frozen=True)
class Request:
    """One call, by its content: equal requests to one model are one call, now and in every later run.

    Args:
        messages: system, user and assistant texts; the last is the user's.
        prompt_version: name, version and hash of the files that the messages were made from.
        schema: the pydantic model that the reply must fit; None takes any text.
        image: bytes that are sent with the first user message.
        temperature: None is the server's own.
        max_tokens: of the reply.
        seed: sent where it is given; tells apart several draws of one question.
        top_p: sent where it is below 1.
    """

    messages: tuple[Message, ...]
    prompt_version: str
    schema: type[BaseModel] | None = None
    image: bytes | None = None
    temperature: float | None = 0.0
    max_tokens: int = 800
    seed: int | None = None
    top_p: float = 1.0

    @functools.cached_property
    def content(self) -> str:
        """sha256 of everything but model and sampling."""
        image = None if self.image is None else hashlib.sha256(self.image).hexdigest()
        schema = None if self.schema is None else json_schema(self.schema)
        return _sha256([list(self.messages), self.prompt_version, image, schema])

    def key(self, model: str) -> str:
        """sha256 of content, model and sampling: what the ledger knows a call by."""
        return _sha256([self.content, model, self.sampling])

    @property
    def sampling(self) -> dict[str, float | int | None]:
        """How the reply is drawn."""
        return {
            "temperature": self.temperature, "max_tokens": self.max_tokens, "seed": self.seed, "top_p": self.top_p
        }  # fmt: skip


@dataclass(frozen=True)
class Reply:
    """How a call ended.

    Args:
        status: `done`, or `failed` for the reason given.
        key: in the ledger.
        reason: of a failure: timeout, connection, http_<status>, web_page, bad_response, empty, refusal, length,
            not_json, schema; not_recorded in a replay; damaged where the ledger's reply cannot be read. Of an answer in
            plain text that is done: why it ended, as the server says (stop, length …), None where it did not.
        text: the raw reply (or the error's) as the server wrote it.
        parsed: an instance of the request's schema.
        model: that was asked.
        prompt_tokens: of all attempts.
        completion_tokens: of all attempts.
        cost: of all attempts.
        attempts: calls that were sent, in this run and earlier ones.
        recorded: the reply stood in the ledger; nothing was sent.
    """

    status: Literal["done", "failed"]
    key: str
    reason: str | None = None
    text: str | None = None
    parsed: Any = None
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    attempts: int = 0
    recorded: bool = False


class Stopped(ValueError):
    """No further call may or can be made; the message says why and how to go on."""


@functools.cache
def json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The model's JSON schema, closed and with every field required, as strict servers ask."""
    return _strict(model.model_json_schema())


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items() if key not in ("title", "default")}
    if schema.get("type") == "object" and "properties" in schema:
        properties = {name: _strict(value) for name, value in schema["properties"].items()}  # may be called title
        strict |= {"properties": properties, "additionalProperties": False, "required": list(properties)}
    return strict


def _sha256(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
