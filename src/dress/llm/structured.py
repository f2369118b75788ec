"""Replies in a given form: how a server is asked for JSON, and how JSON is read out of what came back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from dress.llm.request import Message, json_schema
from dress.record import describe

Form = Literal["json_schema", "json_object_schema", "json_object", "text"]
LADDER: tuple[Form, ...] = ("json_schema", "json_object_schema", "json_object", "text")
"""From what binds a server most to what every server can. `json_object_schema` is llama.cpp's own."""

MOST_OBJECTS = 100
"""Places of a reply where an object is looked for."""
LONGEST = 800
"""Characters of a text in `json_object_schema`, whose grammar is made from a pattern."""


class Misfit(ValueError):
    """A reply that is not what was asked; `reason` is not_json or schema."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def forms(setting: str) -> tuple[Form, ...]:
    """The forms to try, in order, for a `structured` setting."""
    if setting == "auto":
        return LADDER
    return tuple(form for form in LADDER if form.removesuffix("_schema") == setting or form == setting)


def response_format(schema: type[BaseModel], form: Form) -> dict[str, Any] | None:
    """What stands in the request, or None."""
    full = json_schema(schema)
    match form:
        case "json_schema":
            plain = _rewritten(full, _without_lengths)  # OpenAI refuses them; replies are checked anyway
            return {"type": form, "json_schema": {"name": schema.__name__, "strict": True, "schema": plain}}
        case "json_object_schema":
            return {"type": "json_object", "schema": _rewritten(full, _patterned)}
        case "json_object":
            return {"type": form}
        case _:
            return None


def with_schema(messages: tuple[Message, ...], schema: type[BaseModel], form: Form) -> list[Message]:
    """The messages, with the schema written out for the model where the server does not enforce it."""
    if form in ("json_schema", "json_object_schema"):
        return list(messages)
    fields = json.dumps(json_schema(schema), ensure_ascii=False)
    *before, last = messages
    text = f"{last['content']}\n\nAnswer with one JSON object that fits this JSON Schema, and nothing else:\n{fields}"
    return [*before, {**last, "content": text}]


def parse(text: str, schema: type[BaseModel]) -> BaseModel:
    """The first JSON object in a reply that fits; text around it and raw line ends in it do not matter.

    Raises:
        Misfit: there is none.
    """
    misfit = Misfit("not_json", "expected a JSON object")
    for value in _objects(text):
        try:
            parsed = schema.model_validate(value)
        except ValidationError as error:
            if misfit.reason == "not_json":
                misfit = Misfit("schema", storable(describe(error)))
        else:
            if all(storable(part) == part for part in _texts(parsed.model_dump())):
                return parsed
            misfit = Misfit("schema", "expected text, got half of a surrogate pair or a nul character")
    raise misfit


def storable(text: str) -> str:
    """The text with U+FFFD in place of what cannot be written."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\ufffd")


def _objects(text: str) -> Iterator[Any]:
    decoder, start = json.JSONDecoder(strict=False), text.find("{")
    for _ in range(MOST_OBJECTS):
        if start < 0:
            return
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):  # no JSON, numbers of thousands of digits, thousands of brackets
            end = start + 1
        else:
            yield value
        start = text.find("{", end)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from _texts(part)


def _rewritten(schema: Any, rewrite: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """The schema with every object in it rewritten, innermost first."""
    if isinstance(schema, list):
        return [_rewritten(part, rewrite) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return rewrite({key: _rewritten(value, rewrite) for key, value in schema.items()})


def _without_lengths(schema: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value for key, value in schema.items() if key not in ("minLength", "maxLength") or "type" not in schema
    }


def _patterned(schema: dict[str, Any]) -> dict[str, Any]:
    """llama.cpp's grammar lets raw line ends through, and texts grow, unless a pattern forbids it."""
    if schema.get("type") != "string" or {"enum", "const", "pattern"} & schema.keys():
        return schema
    least, most = schema.get("minLength", 0), schema.get("maxLength", LONGEST)
    return {"type": "string", "pattern": rf'^[^"\\\x00-\x1f]{{{least},{most}}}$'}
