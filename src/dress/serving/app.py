"""`/v1/models`, `/v1/chat/completions` and `/health`, as clients of OpenAI's interface expect them."""

from __future__ import annotations

import hmac
import json
import threading
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import ValidationError

from dress.record import describe
from dress.rollout.responder import Sampling
from dress.serving.engine import Engine, Written
from dress.serving.requests import MAX_BYTES, CompletionRequest, question_of

Pieces = AsyncIterator[str | Written]


class Refusal(Exception):
    """What a client gets in place of an answer."""

    def __init__(self, status: int, message: str, code: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.status, self.code = status, code


def create_app(engine: Engine, name: str, root: str, key: str | None = None) -> FastAPI:
    """The server of one model.

    The model `NAME` is asked under its own condition: that of its training for first questions, and for advice where an
    answer stands before; `NAME:none`, `NAME:praise`, … under the named one.

    Args:
        engine: answers.
        name: that clients know the model by.
        root: where it was read from.
        key: that clients have to give; None: nobody needs one.
    """
    app = FastAPI(title="DRESS", docs_url=None, redoc_url=None, openapi_url=None)
    names = {name: None} | {f"{name}:{condition}": condition for condition in engine.model.conditions}
    created = int(time.time())

    @app.exception_handler(Refusal)
    async def refuse(_: Request, error: Refusal) -> JSONResponse:
        content = {"error": {"message": str(error), "type": error.code, "param": None, "code": error.code}}
        return JSONResponse(content, error.status)

    def admit(request: Request) -> None:
        if key is not None:
            said = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(said.encode(), key.encode()):
                raise Refusal(401, "expected Authorization: Bearer KEY", "invalid_api_key")

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {}

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        admit(request)
        rows = [
            {
                "id": one, "object": "model", "created": created, "owned_by": "dress", "root": root,
                "condition": condition,
            }
            for one, condition in names.items()
        ]  # fmt: skip
        return {"object": "list", "data": rows}

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Any:
        admit(request)
        body = await run_in_threadpool(_parse, await _body(request))
        if body.model not in names:
            raise Refusal(404, f"model: expected one of {', '.join(names)}, got {body.model!r:.80}", "model_not_found")
        stopped = threading.Event()
        try:
            question = question_of(body.messages)
            condition = engine.condition(names[body.model], question)
            sampling = Sampling(body.most_tokens or engine.model.max_new_tokens, 1, body.temperature, body.top_p)
            pieces = engine.answer(question, condition, sampling, body.seed, stopped)
            first = await anext(pieces)  # what is wrong with the question is known before the stream begins
        except ValueError as error:
            raise Refusal(400, str(error)) from None
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": body.model}
        if body.stream:
            usage = body.stream_options is not None and body.stream_options.include_usage
            events = _events(request, _whole(first, pieces), head, usage, stopped)
            return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        async for piece in _whole(first, pieces):
            if isinstance(piece, Written):
                message = {"role": "assistant", "content": str(piece.completion)}
                choice = {"index": 0, "message": message, "finish_reason": piece.completion.finish_reason}
                return head | {"object": "chat.completion", "choices": [choice], "usage": _usage(piece)}
            if await request.is_disconnected():
                stopped.set()
        return None

    return app


async def _body(request: Request) -> bytes:
    """What the client sends, never more than `MAX_BYTES` of it."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > MAX_BYTES:
            raise Refusal(413, f"expected at most {MAX_BYTES:,} bytes, got more")
    return bytes(content)


def _parse(content: bytes) -> CompletionRequest:
    try:
        return CompletionRequest.model_validate_json(content)
    except ValidationError as error:
        raise Refusal(400, describe(error)) from None


async def _whole(first: str | Written, rest: Pieces) -> Pieces:
    yield first
    async for piece in rest:
        yield piece


async def _events(
    request: Request, pieces: Pieces, head: dict[str, Any], usage: bool, stopped: threading.Event
) -> AsyncIterator[str]:
    """Server-sent events of an answer; a client that is gone ends it."""

    def event(delta: dict[str, Any], reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return f"data: {json.dumps(head | {'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n"

    try:
        yield event({"role": "assistant", "content": ""})
        async for piece in pieces:
            if await request.is_disconnected():
                return
            if isinstance(piece, str):
                yield event({"content": piece})
                continue
            yield event({}, piece.completion.finish_reason)
            if usage:
                chunk = head | {"object": "chat.completion.chunk", "choices": [], "usage": _usage(piece)}
                yield f"data: {json.dumps(chunk)}\n\n"
        yield "data: [DONE]\n\n"
    finally:
        stopped.set()


def _usage(written: Written) -> dict[str, int]:
    total = written.prompt_tokens + written.tokens
    return {"prompt_tokens": written.prompt_tokens, "completion_tokens": written.tokens, "total_tokens": total}
