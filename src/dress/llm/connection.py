"""The connection to a server: sends one attempt and reads what comes back."""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import Callable, Sequence
from typing import Any

import httpx2
import openai

from dress.base.files import data_uri
from dress.config.raters import Endpoint
from dress.llm.attempt import Attempt, read_completion, read_error
from dress.llm.bounded import bound_size
from dress.llm.request import Message, Request
from dress.llm.structured import Form, response_format

PATIENCE = 10.0
"""Seconds for a question that can go without an answer."""


class Connection:
    """Connections to one server, of the running event loop.

    Args:
        endpoint: where, how many side by side, and how long a call may take.
        key: of the server.
        hide: takes secrets out of text.
    """

    def __init__(self, endpoint: Endpoint, key: str, hide: Callable[[str], str]) -> None:
        self._endpoint, self._hide = endpoint, hide
        most = endpoint.concurrency
        self._server = openai.AsyncOpenAI(
            api_key=key, base_url=endpoint.base_url, timeout=endpoint.timeout, max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(
                limits=httpx2.Limits(max_connections=most, max_keepalive_connections=most), verify=_certificates(),
                event_hooks={"response": [bound_size]},
            ),
        )  # fmt: skip

    async def close(self) -> None:
        """Close all of them."""
        await self._server.close()

    async def send(self, request: Request, form: Form | None, messages: Sequence[Message], limit: str) -> Attempt:
        """One attempt; errors of server and network are attempts too.

        Args:
            request: image, sampling and schema.
            form: how the server is held to the schema.
            messages: what is sent, in place of the request's own.
            limit: the server's name for the most tokens of a reply.
        """
        body: dict[str, Any] = {
            "model": self._endpoint.model, "messages": _with_image(messages, request.image), limit: request.max_tokens
        }  # fmt: skip
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.seed is not None:
            body["seed"] = request.seed
        if request.top_p < 1:
            body["top_p"] = request.top_p
        if request.schema is not None and form is not None and (form_of_reply := response_format(request.schema, form)):
            body["response_format"] = form_of_reply
        try:
            # The typed method walks through messages and schema, which takes longer than everything else here.
            async with asyncio.timeout(self._endpoint.timeout):  # of all; the client's own is of each read
                completion = await self._server.post("/chat/completions", cast_to=object, body=body)
        except (openai.OpenAIError, httpx2.HTTPError, ValueError, TypeError, TimeoutError, RecursionError) as error:
            return read_error(error, self._hide)
        return read_completion(completion, request.schema, self._hide)

    async def origin(self) -> str:
        """What the server says its model was read from (`root`), else the model's name; closes the connection."""
        name = self._endpoint.model
        try:
            async with asyncio.timeout(min(self._endpoint.timeout, PATIENCE)):
                page = await self._server.get("/models", cast_to=object)
        except (openai.OpenAIError, httpx2.HTTPError, ValueError, TypeError, TimeoutError, RecursionError):
            return name
        finally:
            await self.close()
        rows = page.get("data") if isinstance(page, dict) else None
        named = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
        return next((str(row["root"]) for row in named if row.get("id") == name and row.get("root")), name)


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Loaded once: it takes longer than a call."""
    return httpx2.create_ssl_context()


def _with_image(messages: Sequence[Message], image: bytes | None) -> list[Any]:
    if image is None:
        return list(messages)
    first = next(number for number, message in enumerate(messages) if message["role"] == "user")
    parts = [
        {"type": "image_url", "image_url": {"url": data_uri(image)}},
        {"type": "text", "text": messages[first]["content"]},
    ]
    return [*messages[:first], {"role": "user", "content": parts}, *messages[first + 1 :]]
