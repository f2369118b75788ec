"""The client of a language model behind an OpenAI-compatible server: every call goes through the ledger."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import hashlib
import json
import random
import ssl
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from dress.base.redaction import replaced, secrets
from dress.config.raters import LLM, Endpoint, Replay
from dress.data.shards import image_extension
from dress.feedback.rater import api_key
from dress.llm.attempt import Came, read_completion, read_error, repair
from dress.llm.bounded import bound_size
from dress.llm.journal import Journal
from dress.llm.ledger import Begin, End, Ledger, open_ledger
from dress.llm.limits import Limits, processes
from dress.llm.replay import ReplayClient, recorded_model, recorded_reply
from dress.llm.request import Client, Message, Progress, Reply, Request, Stopped
from dress.llm.structured import Form, forms, response_format, storable, with_schema
from dress.llm.tally import Tally

if TYPE_CHECKING:
    from openai import AsyncOpenAI

BACKOFF = 0.5
"""Seconds before the first repeat; doubled with each."""
LONGEST_WAIT = 30.0
LONGEST_RETRY_AFTER = 900.0
"""Seconds; a server that asks for a longer wait ends the run."""
REPAIRS = 2
"""How often a reply that does not fit is asked for again."""
PROBE_FAULTS = 2
MESSAGE_TOKENS = 16
"""More than any chat format puts around a message."""
LEASE = 60.0
"""Seconds beyond a call's timeout after which another process may send it."""
LOOK_AGAIN = 0.2
"""Seconds after which a process looks whether another has a reply."""


class Answer(BaseModel):
    """What a server is probed with: a form works if the reply fits this."""

    answer: Literal["yes", "no"]


PROBE: tuple[Message, ...] = ({"role": "user", "content": "Is snow white? Reply in JSON."},)


def build_client(settings: LLM | Endpoint | Replay, folder: Path | None = None) -> Client:
    """A client for a rater's or responder's settings.

    Args:
        settings: of an LLM, a server or a replay.
        folder: holds `ledger.sqlite` where the settings name no ledger.

    Raises:
        ValueError: the key's variable is not set, no ledger can be had, or the recorded models do not fit.
    """
    if isinstance(settings, Replay):
        recorded = Ledger(Path(settings.ledger), readonly=True)
        return ReplayClient(recorded, recorded_model(recorded, settings.model))
    if settings.ledger is None and folder is None:
        raise ValueError("expected a ledger: name a file (annotator.ledger=… or judge.ledger=…)")
    ledger = Path(settings.ledger) if settings.ledger is not None else Path(folder or ".") / "ledger.sqlite"
    structured = settings.structured if isinstance(settings, LLM) else "auto"
    return LLMClient(settings, open_ledger(ledger), structured)


class LLMClient:
    """Asks a server; see `request.Client`.

    Args:
        endpoint: where, how fast, at which price, within which budget.
        ledger: where every call is written.
        structured: the form of replies that have a schema; `auto` finds the best that the server can.
        limits: of requests and tokens; None makes them from the endpoint.
        backoff: seconds before the first repeat of a call.

    Raises:
        ValueError: the variable that should hold the key is not set.
    """

    def __init__(
        self, endpoint: Endpoint, ledger: Ledger, structured: str = "auto",
        limits: Limits | None = None, backoff: float = BACKOFF,
    ) -> None:  # fmt: skip
        self.endpoint, self.ledger, self.model = endpoint, ledger, endpoint.model
        self.tally = Tally()
        self._key = api_key(endpoint.api_key_env, endpoint.base_url)
        self._hidden = secrets(*filter(None, [endpoint.api_key_env]))
        self._forms, self._backoff = forms(structured), backoff
        self._limits = limits or Limits(endpoint.requests_per_minute, endpoint.tokens_per_minute)
        self._settled: set[str] = set()
        self._stopped: Stopped | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        server = f"{endpoint.base_url} {endpoint.model}"
        self._form_fact, self._limit_fact = f"form {structured} {server}", f"max_tokens {server}"
        self._limit_name = ledger.fact(self._limit_fact) or "max_tokens"

    # --- many ---

    def ask_all(self, requests: Sequence[Request], progress: Progress = lambda n, info: None) -> list[Reply]:
        """Replies in the order of the requests; see `request.Client.ask_all`."""
        with asyncio.Runner() as runner:
            return runner.run(self._ask_all(requests, progress))

    def recorded(self) -> ReplayClient:
        """A client that answers from the same ledger and asks nobody."""
        return ReplayClient(self.ledger, self.model)

    async def aclose(self) -> None:
        """Give up the connections of the running event loop."""
        if self._loop is asyncio.get_running_loop():
            self._loop = None
            await self._server.close()

    async def _ask_all(self, requests: Sequence[Request], progress: Progress) -> list[Reply]:
        self._attach()
        keys = [request.key(self.model) for request in requests]
        unique = dict(zip(keys, requests, strict=True))
        replies = self._recorded(unique)
        self.tally.total += len(unique)
        for reply in replies.values():
            self.tally.add(reply)
        doubles = len(keys) - len(unique)
        progress(len(replies) + doubles, self.tally.line())
        missing = iter([(key, request) for key, request in unique.items() if key not in replies])

        async def work() -> None:
            for key, request in missing:
                replies[key] = await self._shared(request, key)
                self.tally.add(replies[key])
                progress(1, self.tally.line())

        try:
            workers = [asyncio.create_task(work()) for _ in range(self.endpoint.concurrency)]
            ended = await asyncio.gather(*workers, return_exceptions=True)  # what is in flight is paid for: let it end
        finally:
            await self.aclose()
        for error in ended:
            if isinstance(error, BaseException):
                raise error
        return [replies[key] for key in keys]

    # --- one ---

    async def ask(self, request: Request) -> Reply:
        """The reply; see `request.Client.ask`."""
        self._attach()
        key = request.key(self.model)
        known = self._recorded({key: request})
        return known[key] if known else await self._shared(request, key)

    async def _shared(self, request: Request, key: str) -> Reply:
        """One call for all who ask the same at the same time."""
        if key not in self._asking:
            task = self._asking[key] = asyncio.ensure_future(self._settle(request, key))
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(self._asking[key])

    def _attach(self) -> None:
        """Connections, locks and tasks belong to the running event loop."""
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return
        self._loop = loop
        self._server = self._connect()
        self._journal = Journal(self.ledger)
        self._slots = asyncio.Semaphore(self.endpoint.concurrency)
        self._probing = asyncio.Lock()
        self._back = asyncio.Event()  # set when a call comes back
        self._limits.share = processes()
        self._asking: dict[str, asyncio.Future[Reply]] = {}

    def _connect(self) -> AsyncOpenAI:
        import httpx2
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        most = self.endpoint.concurrency
        return AsyncOpenAI(
            api_key=self._key, base_url=self.endpoint.base_url, timeout=self.endpoint.timeout, max_retries=0,
            http_client=DefaultAsyncHttpxClient(
                limits=httpx2.Limits(max_connections=most, max_keepalive_connections=most), verify=_certificates(),
                event_hooks={"response": [bound_size]},
            ),
        )  # fmt: skip

    def _recorded(self, requests: dict[str, Request]) -> dict[str, Reply]:
        """Replies that the ledger holds; failures of earlier runs are asked again with `retry_failed`."""
        rows = self.ledger.get(list(requests))
        return {
            key: recorded_reply(rows[key], request)
            for key, request in requests.items()
            if key in rows and (rows[key]["status"] == "done" or not self.endpoint.retry_failed or key in self._settled)
        }

    async def _settle(self, request: Request, key: str) -> Reply:
        async with self._slots:
            form = await self._form() if request.schema is not None else None
            try:
                reply = await self._tries(request, key, form)
            except BaseException:
                self.ledger.release(key)
                raise
        self._settled.add(key)
        return reply

    async def _tries(self, request: Request, key: str, form: Form | None, most_faults: int | None = None) -> Reply:
        """Ask until the call is done or has failed for good."""
        messages, faults, repairs = list(request.messages), 0, 0
        if request.schema is not None and form is not None:
            messages = with_schema(request.messages, request.schema, form)
        most = self.endpoint.retries if most_faults is None else most_faults
        while True:
            came = await self._call(request, key, form, messages, faults < most, repairs < REPAIRS)
            if came is None:
                if (reply := await self._of_another(request, key)) is not None:
                    return reply
                continue
            match came.next:
                case "done" | "failed":
                    return recorded_reply(self.ledger.get([key])[key], request, recorded=False)
                case "repair":
                    repairs += 1
                    messages = repair(messages, came)
                case "again":
                    faults += 1
                    await self._wait(came, faults)
            self.tally.repeats[came.reason or ""] += 1

    async def _of_another(self, request: Request, key: str) -> Reply | None:
        """The reply that another process gets; None where it gave up, or its time is over."""
        while key not in (rows := self.ledger.get([key])):
            if not self.ledger.taken(key):
                return None
            if self._stopped is not None:
                raise self._stopped
            await asyncio.sleep(LOOK_AGAIN)
        return recorded_reply(rows[key], request)

    async def _wait(self, came: Came, faults: int) -> None:
        if came.wait is not None:
            self._limits.pause(came.wait)  # for all: the server is at its limit, not this call
            await asyncio.sleep(came.wait)
        else:
            await asyncio.sleep(min(LONGEST_WAIT, self._backoff * 2 ** (faults - 1)) * random.uniform(0.75, 1.25))

    @property
    def _lease(self) -> float:
        """Seconds that a claim lasts: longer than any attempt."""
        return self.endpoint.timeout + LEASE

    async def _call(
        self, request: Request, key: str, form: Form | None, messages: list[Message], again: bool, repairs: bool
    ) -> Came | None:
        """One attempt: written down, sent, written down; None where another process makes it."""
        size = sum(len(message["content"].encode("utf-8", "surrogatepass")) for message in messages)
        image = 0 if request.image is None else self.endpoint.image_tokens
        guess = size // 4 + image + request.max_tokens
        ticket = await self._limits.admit(guess)
        if self._stopped is not None:
            raise self._stopped
        # A token is at least a byte.
        most_prompt = size + MESSAGE_TOKENS * len(messages) + image
        reserved = self._price(most_prompt, request.max_tokens)
        try:
            if not await self._claim(self._begin(request, key, form, reserved)):
                self._limits.correct(ticket, 0)
                return None
            began = time.monotonic()
            limit = self._limit_name
            came = self._decide(await self._send(request, form, messages, limit), limit, again, repairs)
            prompt, completion = came.prompt_tokens, came.completion_tokens
            if prompt is None or completion is None:
                prompt, completion = 0, 0
                cost = reserved if came.billed else 0.0
            else:
                cost = self._price(prompt, completion)
                self._limits.correct(ticket, prompt + completion)
            settled = came.next if came.next in ("done", "failed") else None
            await self._journal.write(
                End(
                    key, settled, came.reason, came.raw,
                    None if came.parsed is None else came.parsed.model_dump_json(),
                    prompt, completion, cost, round(time.monotonic() - began, 4), came.served_by,
                    self._lease + max(came.wait or 0.0, LONGEST_WAIT),
                )
            )  # fmt: skip
            self.tally.spend(prompt, completion, cost)
        finally:
            self._back.set()
        if came.next == "stop":
            raise self._stop(came.problem)
        return came

    async def _send(self, request: Request, form: Form | None, messages: list[Message], limit: str) -> Came:
        import httpx2
        import openai

        body: dict[str, Any] = {
            "model": self.model, "messages": _with_image(messages, request.image), limit: request.max_tokens
        }  # fmt: skip
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.seed is not None:
            body["seed"] = request.seed
        if request.top_p < 1:
            body["top_p"] = request.top_p
        if request.schema is not None and form is not None:
            asked = response_format(request.schema, form)
            body |= {"response_format": asked} if asked else {}
        try:
            # The typed method walks through messages and schema, which takes longer than everything else here.
            async with asyncio.timeout(self.endpoint.timeout):  # of all; the client's own is of each read
                completion = await self._server.post("/chat/completions", cast_to=object, body=body)
        except (openai.OpenAIError, httpx2.HTTPError, ValueError, TypeError, TimeoutError, RecursionError) as error:
            return read_error(error, self._hide)
        return read_completion(completion, request.schema, self._hide)

    def _decide(self, came: Came, limit: str, again: bool, repairs: bool) -> Came:
        """What follows, given what may still be tried."""
        if came.reason == "http_400" and limit == "max_tokens" and "max_completion_tokens" in (came.raw or ""):
            self._limit_name = "max_completion_tokens"  # OpenAI's reasoning models know only this one
            self.ledger.remember(self._limit_fact, self._limit_name)
            return replace(came, next="again", wait=0.0)
        if came.wait is not None and came.wait > LONGEST_RETRY_AFTER and came.next == "again":
            return replace(came, next="stop", problem=f"the server asks to wait for {came.wait:.0f} s")
        if came.next == "again" and not again:
            if came.reason == "unreachable":
                return replace(came, next="stop", problem=f"nobody answers there ({came.raw})")
            return replace(came, next="failed")
        return replace(came, next="failed") if came.next == "repair" and not repairs else came

    # --- what the server can ---

    async def _form(self) -> Form:
        """The form of structured replies: found by asking once, then remembered in the ledger."""
        if len(self._forms) == 1:
            return self._forms[0]
        async with self._probing:
            known = self.ledger.fact(self._form_fact)
            for form in self._forms:
                if known == form:
                    return form
            for form in self._forms[:-1]:
                if await self._can(form):
                    break
            else:
                form = self._forms[-1]
            self.ledger.remember(self._form_fact, form)
            return form

    async def _can(self, form: Form) -> bool:
        probe = Request(PROBE, prompt_version=f"probe-{form}", schema=Answer, max_tokens=100)
        reply = await self._tries(probe, probe.key(self.model), form, PROBE_FAULTS)
        if reply.reason in ("timeout", "connection"):
            raise self._stop(f"it does not answer ({reply.reason} {reply.attempts} times)")
        return reply.status == "done"

    # --- money, secrets ---

    def _price(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.endpoint.price_in + completion_tokens * self.endpoint.price_out) / 1e6

    async def _claim(self, call: Begin) -> bool:
        """Write a call down before it is sent; waits for calls in flight, which mostly cost less than they can.

        Returns:
            False where another process asks it, or has asked it.

        Raises:
            Stopped: even without the calls in flight the budget could be passed.
        """
        while (became := await self._journal.write(call)) == "wait":
            self._back.clear()
            with contextlib.suppress(TimeoutError):  # what comes back to another process sets no event here
                await asyncio.wait_for(self._back.wait(), LOOK_AGAIN)
        if became == "over":
            self._stopped = self._stopped or Stopped(
                f"budget={call.budget:g}: {self.ledger.spent:.4f} is spent by the calls in {self.ledger.path}, and the "
                f"next call may cost up to {call.reserved:.4f}; stopped before the budget is passed. What was answered "
                f"is kept; to go on, give a larger budget"
            )
            raise self._stopped
        return became == "written"

    def _stop(self, why: str) -> Stopped:
        where = f"{self.endpoint.base_url} (model {self.model})"
        self._stopped = self._stopped or Stopped(f"{where}: {why}. What was answered is kept in {self.ledger.path}")
        return self._stopped

    def _hide(self, text: str) -> str:
        return str(replaced(text, self._hidden))

    def _begin(self, request: Request, key: str, form: Form | None, reserved: float) -> Begin:
        return Begin(
            key, request.content, self.model, json.dumps(request.sampling), request.prompt_version,
            None if request.image is None else hashlib.sha256(request.image).hexdigest(),
            storable(json.dumps(replaced(list(request.messages), self._hidden), ensure_ascii=False)), form, reserved,
            self._lease, self.endpoint.budget,
        )  # fmt: skip


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Loaded once: it takes longer than a call."""
    import httpx2

    return httpx2.create_ssl_context()


def _with_image(messages: list[Message], image: bytes | None) -> list[Any]:
    if image is None:
        return list(messages)
    url = f"data:image/{image_extension(image).replace('jpg', 'jpeg')};base64,{base64.b64encode(image).decode()}"
    first = next(number for number, message in enumerate(messages) if message["role"] == "user")
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": messages[first]["content"]}]
    return [*messages[:first], {"role": "user", "content": parts}, *messages[first + 1 :]]
