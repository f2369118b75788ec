"""The page's server: what it shows, and what it takes. Only this machine's browsers that have the key get anything."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from dress.chat.agreement import agreement
from dress.chat.conversations import Conversations, now
from dress.chat.worklist import Worklist
from dress.feedback.journal import EditEvent, FeedbackEvent, Id, JournalFull, Key, Text, Who
from dress.record import CRITERIA, RecordError, describe

PAGE = Path(__file__).parent / "page"
MAX_PICTURE = 32 * 2**20
"""Bytes of a picture's file."""
MAX_WORDS = 2**20
"""Bytes of any other request."""
PULSE = 15.0
"""Seconds between signs of life on a connection that waits."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Ask(BaseModel):
    """A question of the page; `side` is the place of who answers it."""

    model_config = ConfigDict(extra="forbid")

    id: Id
    conversation: Id
    who: Who
    side: int = Field(ge=0, le=1, strict=True)
    question: Text
    picture: Key | None = None
    before: Key | None = None
    condition: str | None = None


_WORD: TypeAdapter[FeedbackEvent | EditEvent] = TypeAdapter(FeedbackEvent | EditEvent)


def create_app(conversations: Conversations, key: str, port: int) -> FastAPI:
    """The server of one page.

    Args:
        conversations: what is asked and said.
        key: that a browser gives once, in the address; a cookie holds it from then on.
        port: that it listens at: cookies are told apart by it.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    worklist = None if conversations.queue is None else Worklist(conversations, conversations.queue)
    cookie = f"dress-chat-{port}"

    @app.middleware("http")
    async def guard(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        given = request.query_params.get("key") if request.url.path == "/" else None
        if not hmac.compare_digest((given or request.cookies.get(cookie, "")).encode(), key.encode()):
            return Response("Open the address that chat.py printed: it holds the key.", 403)
        if request.method != "GET" and request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return Response("Another page may not write here.", 403)
        if given is not None:  # the key leaves the address
            response: Response = RedirectResponse("/", 303)
            response.set_cookie(cookie, key, httponly=True, samesite="strict")
            return response
        response = await go_on(request)
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    # outermost: another name for this machine is no name that anybody typed
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"], www_redirect=False)

    @app.exception_handler(ValueError)
    async def refuse(_: Request, error: ValueError) -> JSONResponse:
        said = describe(error) if isinstance(error, ValidationError) else str(error)
        return JSONResponse({"error": said}, 422 if isinstance(error, RecordError) else 400)

    @app.exception_handler(OSError)
    async def fail(_: Request, error: OSError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 507 if isinstance(error, JournalFull) else 500)

    for file, name in (("index.html", "/"), ("page.js", "/page.js"), ("page.css", "/page.css")):
        app.get(name)(_file_sender(PAGE / file))

    @app.get("/favicon.ico")
    async def no_icon() -> Response:
        return Response(status_code=204)

    @app.get("/state")
    async def state(conversation: str = "") -> dict[str, Any]:
        blind = conversations.settings.blind
        sides = [
            {"name": f"answer {number}" if blind else one.name, "conditions": one.conditions}
            for number, one in enumerate(conversations.sides(conversation), 1)
        ]
        total = None if conversations.queue is None else len(conversations.queue.items)
        return {"sides": sides, "blind": blind, "criteria": CRITERIA, "queue": total, "out": str(conversations.out)}

    @app.post("/pictures")
    async def add_picture(request: Request) -> dict[str, Any]:
        return await run_in_threadpool(conversations.pictures.add, await _body(request, MAX_PICTURE))

    @app.get("/pictures/{name}")
    async def picture(name: str) -> Response:
        file = conversations.pictures.file(TypeAdapter(Key).validate_python(name))
        return Response(status_code=404) if file is None else FileResponse(file)

    @app.post("/ask")
    async def ask(request: Request) -> dict[str, Any]:
        body = Ask.model_validate_json(await _body(request, MAX_WORDS))
        sides = conversations.sides(body.conversation)
        if body.side >= len(sides):
            raise ValueError(f"side: expected less than {len(sides)}, got {body.side}")
        side = sides[body.side]
        if body.condition is not None and body.condition not in side.conditions:
            raise ValueError(f"condition: expected one of {', '.join(side.conditions)}, got {body.condition!r:.80}")
        if body.picture is not None and conversations.pictures.file(body.picture) is None:
            raise ValueError("picture: expected one that was sent before, got another")
        dialogue = conversations.dialogue(body.before, body.question)
        conversations.ask(body.id, side, dialogue, body.picture, body.before, body.condition, body.who)
        return {"job": body.id}

    @app.get("/conversation/{answer}")
    async def conversation(answer: str) -> dict[str, Any]:
        if answer not in conversations.talk.answers:
            raise ValueError(f"expected the name of an answer that was shown, got {answer!r:.80}")
        path = conversations.talk.path(answer)
        return {"turns": [{"question": one.question, "answer": one.answer, "text": one.text} for one in path]}

    @app.get("/answers/{job}/events")
    async def events(job: str, request: Request) -> Response:
        if job not in conversations.jobs:
            return JSONResponse({"error": "no such answer is on its way; ask again"}, 404)
        last = request.headers.get("last-event-id", "")
        first = int(last) + 1 if last.isdecimal() else 0
        return StreamingResponse(_events(conversations, job, first), media_type="text/event-stream")

    @app.post("/answers/{job}/stop")
    async def stop(job: str) -> dict[str, Any]:
        if job in conversations.jobs:
            conversations.jobs[job].stop()
        return {}

    @app.post("/feedback")
    async def say(request: Request) -> dict[str, Any]:
        event = _WORD.validate_json(await _body(request, MAX_WORDS))
        new = await run_in_threadpool(conversations.add, event.model_copy(update={"at": now()}))
        return {"new": new}

    @app.get("/feedback")
    async def feedback(answer: str, who: str) -> dict[str, Any]:
        return conversations.feedback(answer, who)

    @app.get("/names")
    async def names(conversation: str, answers: str, who: str) -> dict[str, Any]:
        every = answers.split(",")
        rated = all(
            any(one["rating"] for one in conversations.feedback(answer, who)["feedback"].values()) for answer in every
        )
        if not rated or len(every) != len(conversations.answering):
            raise ValueError("names: expected a rating of each answer first")
        return {"names": [one.name for one in conversations.sides(conversation)]}

    @app.get("/queue/next")
    async def next_item(who: str, after: int = -1) -> dict[str, Any]:
        if worklist is None:
            raise ValueError("queue: expected queue=… on the command line, got none")
        number = worklist.next(who, after)
        if number is None:
            return {"number": None, "total": len(worklist.queue.items), "done": worklist.done(who)}
        return worklist.show(number, who)

    @app.get("/queue/{number}")
    async def item(number: int, who: str) -> dict[str, Any]:
        if worklist is None:
            raise ValueError("queue: expected queue=… on the command line, got none")
        return worklist.show(number, who)

    @app.get("/agreement")
    async def agree() -> dict[str, Any]:
        return await run_in_threadpool(agreement, conversations.talk)

    return app


async def _events(conversations: Conversations, name: str, first: int) -> AsyncIterator[str]:
    """Pieces of an answer from a number on, and its end; a sign of life where nothing comes."""
    job = conversations.jobs[name]
    pieces = job.listen(first)
    waiting: asyncio.Future[tuple[int, str]] | None = None
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(anext(pieces))
            ready, _ = await asyncio.wait([waiting], timeout=PULSE)
            if not ready:
                yield ": waiting\n\n"
                continue
            try:
                number, piece = waiting.result()
            except StopAsyncIteration:
                break
            waiting = None
            yield f"id: {number}\ndata: {json.dumps(piece)}\n\n"
        yield f"event: end\ndata: {json.dumps(job.end)}\n\n"
    finally:
        if waiting is not None:
            waiting.cancel()


async def _body(request: Request, most: int) -> bytes:
    """What the page sends.

    Raises:
        ValueError: more than so many bytes.
    """
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > most:
            raise ValueError(f"expected at most {most / 2**20:g} MiB, got more")
    return bytes(content)


def _file_sender(file: Path) -> Callable[[], Awaitable[Response]]:
    async def send() -> Response:
        return FileResponse(file, headers={"Cache-Control": "no-cache"})

    return send
