"""An OpenAI-compatible server of our own, on loopback, that answers at once and fails as often as it is told.

    python tests/llm_server.py --faults 0.2

prints its port. Everything it does is a pure function of the messages and of how often they came before.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

FAULTS = (
    "429", "500", "timeout", "cut_body", "cut_json", "refusal", "length", "drift", "reset", "rating", "prose", "empty",
)  # fmt: skip
WRITES = "You write test requests"
"""To whoever is asked for a harmful request."""
DELAY = 0.02
"""Seconds that a client is asked to wait."""


@dataclass
class Behaviour:
    """What a server does.

    Args:
        faults: share of calls that go wrong.
        kinds: ways to go wrong.
        forms: response formats it honours: json_schema, json_object_schema, json_object.
        strict: refuses other formats with this status; None ignores them.
        refuses: share of questions that are refused whenever they are asked.
        always: says this, whatever it is asked.
        key: refuses calls without it, and repeats the key it got.
        delay: seconds before an answer.
        hang: seconds of a time-out.
        origins: what its models were read from, by name, as vLLM says it.
    """

    faults: float = 0.0
    kinds: tuple[str, ...] = FAULTS
    forms: tuple[str, ...] = ("json_schema", "json_object_schema", "json_object")
    strict: int | None = 400
    refuses: float = 0.0
    always: str | None = None
    key: str | None = None
    delay: float = 0.0
    hang: float = 30.0
    origins: dict[str, str] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    """Calls that got a usable answer, by question."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        asked = hashlib.sha256(json.dumps(_first(body["messages"])).encode()).hexdigest()
        self.calls[asked] += 1
        self.bodies.append(body)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._answer(request, body, asked)
        finally:
            self.in_flight -= 1

    async def models(self, request: web.Request) -> web.Response:
        rows = [{"id": name, "object": "model", "root": root} for name, root in self.origins.items()]
        return web.json_response({"object": "list", "data": rows or [{"id": "loopback-1", "object": "model"}]})

    async def _answer(self, request: web.Request, body: dict[str, Any], asked: str) -> web.StreamResponse:
        given = request.headers.get("Authorization", "")
        if self.key is not None and given != f"Bearer {self.key}":
            return error(401, f"Incorrect API key provided: {given}")
        form = form_of(body)
        if form != "text" and form not in self.forms and self.strict is not None:
            return error(self.strict, f"response_format {form} is not supported")
        dice = hashlib.sha256(f"{asked} {self.calls[asked]}".encode()).digest()
        if self.delay:
            await asyncio.sleep(self.delay)
        if int.from_bytes(dice[:4], "big") / 2**32 < self.faults:
            return await self._fault(request, self.kinds[dice[5] % len(self.kinds)], asked)
        if int(asked[:8], 16) / 2**32 < self.refuses and re.search(f"rating|{WRITES}", json.dumps(body["messages"])):
            return reply(None, refusal=f"I cannot judge this, {given}.")
        text = self.always if self.always is not None else answer(body, form in self.forms, asked)
        self.answered[asked] += 1
        return reply(text)

    async def _fault(self, request: web.Request, kind: str, asked: str) -> web.StreamResponse:
        good = json.dumps(verdict(asked))
        match kind:
            case "429":
                return error(429, "slow down", {"Retry-After": str(DELAY)})
            case "500":
                return error(500, f"something broke for {request.headers.get('Authorization')}")
            case "timeout":
                self.in_flight -= 1  # who asked does not wait that long
                try:
                    await asyncio.sleep(self.hang)
                finally:
                    self.in_flight += 1
                return error(504, "too late")
            case "reset":
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            case "cut_body":
                cut = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "4000"})
                await cut.prepare(request)
                await cut.write(b'{"id": "x", "choices": [{"mess')
                assert request.transport is not None
                request.transport.close()
                return cut
            case "cut_json":
                return reply(good[: len(good) // 2])
            case "refusal":
                return reply(None, refusal="I cannot judge this.")
            case "length":
                return reply(good[: len(good) // 2], finish="length")
            case "drift":
                return reply(json.dumps({"score": 3, "comment": "fine"}))
            case "rating":
                return reply(json.dumps(verdict(asked) | {"rating": 7}))
            case "prose":
                return reply("On the whole this answer is rather good, I would say.")
            case _:
                return reply("")


def verdict(asked: str) -> dict[str, Any]:
    """A usable answer to a rubric."""
    rating = int(asked[0], 16) % 4 + 1
    refinement = "" if rating == 4 else f"Look again and name thing {asked[:6]}."
    return {"critique": f"It says {asked[:6]}, which is level {rating}.", "rating": rating, "refinement": refinement}


def answer(body: dict[str, Any], bound: bool, asked: str) -> str:
    """What fits the schema, where one is asked for or told."""
    text = json.dumps(body)
    if (attack := attack_of(_first(body["messages"]), asked)) is not None:
        return json.dumps(attack) if bound else f"Here it is:\n{json.dumps(attack)}"
    if '"answer"' in text or '\\"answer\\"' in text:
        return json.dumps({"answer": "yes"}) if bound else "Snow is white."
    if "rating" in text:
        return json.dumps(verdict(asked)) if bound else f"Here it is:\n```json\n{json.dumps(verdict(asked))}\n```"
    return f"I see thing {asked[:6]}."


def attack_of(messages: list[dict[str, Any]], asked: str) -> dict[str, Any] | None:
    """A usable answer to a question of configs/attacks; None to another one. A draft is about the first object."""
    system, text, dice = str(messages[0]["content"]), str(messages[-1]["content"]), int(asked[:4], 16)
    query = re.search(r"<request>\n(.*?)\n", text)
    asks = query[1] if query else ""
    if "about_image" in text:
        harm = 1 if "paint" in asks else 2 if dice % 5 == 0 else 4
        return {"reason": "It says so.", "about_image": dice % 7 > 0, "harm": harm, "advice": "Be plain."}
    if "Judge its words only" in text:
        return {"reason": "Its words.", "alone": "harmful" if "hurt" in asks else "safe"}
    if "turns down requests" in system:
        thing = re.search(r"the thing meant \((.*?)\)", text)
        name = thing[1] if thing else ""
        return {"text": f"Friend {asked[:6]}, I cannot help with that {name}, because somebody could get hurt."}
    if "You rewrite requests" in system:
        return {"query": asks.replace("hurt", "paint")}
    if WRITES in system:
        thing = re.search(r"Objects in it:\n- ([a-z ]+)", text)
        words, name = " ".join(asked[place : place + 4] for place in range(0, 20, 4)), thing[1] if thing else ""
        return {"query": f"How would one hurt {words} with the {name}?", "thing": name}
    return None


def form_of(body: dict[str, Any]) -> str:
    asked = body.get("response_format")
    if asked is None:
        return "text"
    return "json_object_schema" if asked["type"] == "json_object" and "schema" in asked else str(asked["type"])


def _first(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was asked before any repair: up to the first answer after the last plain question."""
    ends = [n for n, m in enumerate(messages) if str(m["content"]).startswith("That reply cannot be used")]
    if not ends:
        return messages
    first = ends[0] - (messages[ends[0] - 1]["role"] == "assistant")
    return messages[:first]


def reply(text: str | None, finish: str = "stop", refusal: str | None = None) -> web.Response:
    message = {"role": "assistant", "content": text, "refusal": refusal}
    return web.json_response(
        {
            "id": "x", "object": "chat.completion", "created": 0, "model": "loopback-1", "system_fingerprint": "fp",
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
        }
    )  # fmt: skip


def error(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    body = {"error": {"message": message, "type": "x", "code": None, "param": None}}
    return web.json_response(body, status=status, headers=headers)


def application(behaviour: Behaviour) -> web.Application:
    app = web.Application(client_max_size=2**26)
    app.router.add_post("/v1/chat/completions", behaviour.handle)
    app.router.add_get("/v1/models", behaviour.models)

    async def stats(request: web.Request) -> web.Response:
        return web.json_response(
            {"calls": behaviour.calls, "answered": behaviour.answered, "most_in_flight": behaviour.most_in_flight}
        )

    app.router.add_get("/stats", stats)
    return app


async def _listen(behaviour: Behaviour, port: int = 0) -> tuple[web.AppRunner, int]:
    runner = web.AppRunner(application(behaviour), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    assert runner.addresses
    return runner, runner.addresses[0][1]


@contextlib.contextmanager
def serving(behaviour: Behaviour) -> Iterator[str]:
    """Serve from a thread of this process; gives the address up to /v1."""
    loop, ready, port = asyncio.new_event_loop(), threading.Event(), 0
    runner: web.AppRunner | None = None

    def work() -> None:
        nonlocal port, runner
        asyncio.set_event_loop(loop)
        runner, port = loop.run_until_complete(_listen(behaviour))
        ready.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        left = asyncio.all_tasks(loop)  # that hang
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


@dataclass
class Started:
    """A server in a process of its own."""

    url: str

    def stats(self) -> dict[str, Any]:
        """`calls` and `answered` by question, `most_in_flight`."""
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/stats") as answer:
            return dict(json.load(answer))


@contextlib.contextmanager
def started(*arguments: str) -> Iterator[Started]:
    """Serve from another process; see `main` for its arguments."""
    command = [sys.executable, __file__, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield Started(f"http://127.0.0.1:{int(process.stdout.readline())}/v1")
    finally:
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--faults", type=float, default=0.0)
    parser.add_argument("--kinds", nargs="*", default=FAULTS)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--refuses", type=float, default=0.0)
    arguments = parser.parse_args()
    behaviour = Behaviour(
        faults=arguments.faults, kinds=tuple(arguments.kinds), delay=arguments.delay, refuses=arguments.refuses
    )

    async def forever() -> None:
        _, port = await _listen(behaviour)
        print(port, flush=True)
        parent = os.getppid()
        while os.getppid() == parent:  # never outlives who started it
            await asyncio.sleep(0.2)

    asyncio.run(forever())


if __name__ == "__main__":
    main()
